//! How long a small request and its answer take, both ends and all between them on one core.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use lab::Host;

use super::generator::pin_to_one_core;
use super::paths::{Direction, Lane, PORT};

/// Exchanges before the clock is looked at, which open the session among other things.
const WARM_UP: usize = 500;
/// Bytes of a request, and of an answer.
const MESSAGE: usize = 32;
/// Microseconds in a second.
const MICRO: f64 = 1e6;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A datagram for each.
    Udp,
    /// One connection for all of them.
    Tcp,
}

impl Protocol {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Udp, Self::Tcp];

    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// Quantiles of the exchanges of one measurement, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    /// Half of them were quicker.
    pub(crate) p50_us: f64,
    /// One in a hundred was slower.
    pub(crate) p99_us: f64,
}

/// Measures a path, with nothing attached that ends packets.
///
/// # Errors
/// When an answer does not come within the lab's patience.
pub(crate) fn measure(
    lane: &Lane,
    direction: Direction,
    protocol: Protocol,
    exchanges: usize,
) -> Result<Latency> {
    let (client, server) = lane.ends(direction);
    let to = lane.destination(direction);
    let times = match protocol {
        Protocol::Udp => udp(client, server, to, exchanges),
        Protocol::Tcp => tcp(client, server, to, exchanges),
    };
    let (path, way, name) = (lane.variant.name(), direction.name(), protocol.name());
    let mut times = times.with_context(|| format!("{path}, {way}, {name} messages"))?;
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let at = (times.len() as f64 * share) as usize;
        times[at.min(times.len() - 1)] * MICRO
    };
    Ok(Latency {
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    })
}

fn udp(client: &Host, server: &Host, to: Ipv4Addr, exchanges: usize) -> Result<Vec<f64>> {
    let answering = server.udp(&format!("0.0.0.0:{PORT}"))?;
    let asking = client.udp("0.0.0.0:0")?;
    asking.connect((to, PORT))?;
    let answer = |socket: UdpSocket| -> Result<()> {
        let mut message = [0; MESSAGE];
        for _ in 0..WARM_UP + exchanges {
            let (length, from) = socket.recv_from(&mut message).context("await a request")?;
            socket.send_to(&message[..length], from)?;
        }
        Ok(())
    };
    let ask = |number: u64| -> Result<()> {
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&number.to_ne_bytes());
        let sent = message;
        asking.send(&message)?;
        let length = asking.recv(&mut message).context("await an answer")?;
        ensure!(
            length == MESSAGE && message == sent,
            "the answer is another"
        );
        Ok(())
    };
    both(|| answer(answering), ask, exchanges)
}

fn tcp(client: &Host, server: &Host, to: Ipv4Addr, exchanges: usize) -> Result<Vec<f64>> {
    let listener = server.tcp_listen(&format!("0.0.0.0:{PORT}"))?;
    let mut asking = client.tcp(SocketAddrV4::new(to, PORT))?;
    let (mut answering, _) = listener.accept()?;
    for stream in [&asking, &answering] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(asking.read_timeout()?)?;
    }
    let answer = move || -> Result<()> {
        let mut message = [0; MESSAGE];
        for _ in 0..WARM_UP + exchanges {
            answering
                .read_exact(&mut message)
                .context("await a request")?;
            answering.write_all(&message)?;
        }
        Ok(())
    };
    let ask = |number: u64| -> Result<()> {
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&number.to_ne_bytes());
        let sent = message;
        asking.write_all(&message)?;
        asking.read_exact(&mut message).context("await an answer")?;
        ensure!(message == sent, "the answer is another");
        Ok(())
    };
    both(answer, ask, exchanges)
}

/// Runs both ends and returns the seconds that each exchange took. On one core, no thread must be
/// woken on another one, which would take longer than all the rest.
fn both(
    answer: impl FnOnce() -> Result<()> + Send,
    mut ask: impl FnMut(u64) -> Result<()> + Send,
    exchanges: usize,
) -> Result<Vec<f64>> {
    thread::scope(|scope| {
        let answering = scope.spawn(|| pin_to_one_core().and_then(|()| answer()));
        let asking = scope.spawn(move || {
            pin_to_one_core()?;
            let mut times = Vec::with_capacity(exchanges);
            for number in 0..WARM_UP + exchanges {
                let begun = Instant::now();
                ask(number as u64)?;
                if number >= WARM_UP {
                    times.push(begun.elapsed().as_secs_f64());
                }
            }
            anyhow::Ok(times)
        });
        let times = asking
            .join()
            .map_err(|_| anyhow!("the client panicked"))??;
        answering
            .join()
            .map_err(|_| anyhow!("the server panicked"))??;
        Ok(times)
    })
}
