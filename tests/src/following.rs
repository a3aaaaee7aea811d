//! How soon a change of the host is followed.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::patience::patience;

/// How long it may take.
pub const FOLLOWED: Duration = Duration::from_secs(1);

/// How long other things may take that are waited for.
const SOON: Duration = Duration::from_secs(10);

/// How long each question takes.
const QUESTION: Duration = Duration::from_millis(20);

/// Sends until the server sees the sender as `is_expected` says; returns what it saw. Afterwards
/// the server has nothing more to read, and waits as long as before.
///
/// The time is counted in attempts: a pause of the whole machine counts as one attempt, not all of
/// them.
///
/// # Errors
/// When that is not so within [`FOLLOWED`].
pub fn soon_seen(
    sender: &UdpSocket,
    to: SocketAddrV4,
    server: &UdpSocket,
    is_expected: impl Fn(SocketAddr) -> bool,
) -> Result<SocketAddr> {
    let usual = server.read_timeout().context("time limit")?;
    server
        .set_read_timeout(Some(QUESTION))
        .context("time limit")?;
    let mut last = Ok(0);
    let mut last_seen = None;
    for _ in 0..=patience(FOLLOWED).as_millis() / QUESTION.as_millis() {
        let asked = Instant::now();
        // An error may be that of a packet before.
        last = sender.send_to(b"who am I", to);
        if let Ok((_, seen)) = server.recv_from(&mut [0; 16]) {
            last_seen = Some(seen);
            if is_expected(seen) {
                while server.recv_from(&mut [0; 16]).is_ok() {}
                server.set_read_timeout(usual).context("time limit")?;
                return Ok(seen);
            }
        }
        thread::sleep(QUESTION.saturating_sub(asked.elapsed()));
    }
    bail!("after {FOLLOWED:?} seen as {last_seen:?}; sent at last: {last:?}")
}

/// Asks until a change of the host has been followed. The time is counted in questions, as by
/// [`soon_seen`].
///
/// # Errors
/// When it is not within [`FOLLOWED`], or cannot be asked.
pub fn followed(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..=patience(FOLLOWED).as_millis() / QUESTION.as_millis() {
        if is_so()? {
            return Ok(());
        }
        thread::sleep(QUESTION);
    }
    bail!("{what}: not after {FOLLOWED:?}")
}

/// Waits until something is so.
///
/// # Errors
/// When it is not within 10 s, or cannot be asked.
pub fn soon(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience(SOON);
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("{what}: not after {SOON:?}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
