//! What a guest tries against the others and against the host: docs/security.md, "Attacks from a
//! guest".

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::topology::Proxmox;
use tests::at;
use tests::following::soon_seen;

/// A frame to all from the source of this number, of a type that nothing on the host takes.
fn stranger(number: u32) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6] = 0x02;
    frame[8..12].copy_from_slice(&number.to_be_bytes());
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

#[test]
fn forged_ethernet_sources_keep_the_daemon_from_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    let to = at(Proxmox::CLI, 7000);
    let seen_as = |address: Ipv4Addr| {
        soon_seen(&guest, to, &server, |seen| seen.ip() == address)
            .with_context(|| format!("not seen as {address}"))
    };
    seen_as(Proxmox::PUBLIC)?;
    let other = Ipv4Addr::new(19, 19, 8, 77);
    let socket = net.vm2.raw("eth0")?;
    let (is_over, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let last = thread::scope(|scope| -> Result<()> {
        let flood = || {
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    let _lost = socket.send(&stranger(sent.fetch_add(1, Ordering::Relaxed)));
                }
                // 12,000 a second, and as many as are learned while nobody looks.
                if sent.load(Ordering::Relaxed) > 200_000 {
                    thread::sleep(Duration::from_micros(4_166));
                }
            }
        };
        scope.spawn(flood);
        let during = || -> Result<()> {
            let patience = Instant::now() + Duration::from_secs(20);
            while sent.load(Ordering::Relaxed) < 220_000 && Instant::now() < patience {
                thread::sleep(Duration::from_millis(20));
            }
            net.exchange_address(Proxmox::PUBLIC, other)?;
            seen_as(other)?;
            natbpf.cli(&["reload"])?.expect_ok()?;
            Ok(())
        };
        let result = during();
        is_over.store(true, Ordering::Relaxed);
        result
    });
    last?;
    let learned = net.host.check(["bridge", "fdb", "show", "br", "vmbr1"])?;
    ensure!(
        learned.lines().count() > 150_000,
        "the bridge has not learned"
    );
    let lines = natbpf.log().lines().count();
    ensure!(lines < 100, "{lines} lines in the log");
    natbpf.kill()?;
    let begun = Instant::now();
    natbpf.launch()?;
    ensure!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    seen_as(other).map(drop)
}
