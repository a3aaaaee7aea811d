//! Datagrams that must not overtake each other.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Endpoint;

/// How long the receiver waits for the next one.
const SILENCE: Duration = Duration::from_millis(500);
const LASTS: Duration = Duration::from_secs(4);

/// Sends numbered datagrams without a pause while something else happens, and checks that they
/// arrive in order.
///
/// # Errors
/// When one arrives after a later one, half of them or more are lost, or what happens meanwhile
/// fails.
///
/// # Panics
/// When what happens meanwhile does.
pub fn arrive_in_order<A: Endpoint>(
    sender: &UdpSocket,
    to: A,
    receiver: &UdpSocket,
    meanwhile: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    receiver
        .set_read_timeout(Some(SILENCE))
        .context("time limit")?;
    let to = to.into();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let (mut last, mut seen, mut buffer) = (None, 0_u32, [0; 4]);
            while receiver.recv(&mut buffer).is_ok() {
                let number = u32::from_be_bytes(buffer);
                if last.is_some_and(|last| last >= number) {
                    bail!("{number} arrived after {last:?}");
                }
                (last, seen) = (Some(number), seen + 1);
            }
            Ok(seen)
        });
        let changing = scope.spawn(meanwhile);
        let deadline = Instant::now() + LASTS;
        let mut number = 0_u32;
        while Instant::now() < deadline {
            // Bursts, as applications send them.
            for _ in 0..16 {
                sender.send_to(&number.to_be_bytes(), to)?;
                number += 1;
            }
            thread::sleep(Duration::from_micros(500));
        }
        changing.join().expect("it does not panic")?;
        let seen = receiving.join().expect("the receiver does not panic")?;
        ensure!(seen > number / 2, "{seen} of {number} arrived");
        Ok(())
    })
}
