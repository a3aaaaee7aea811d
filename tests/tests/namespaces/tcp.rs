//! TCP: T1, T8, T10.

use anyhow::{Context, Result, ensure};
use lab::L4;
use lab::service::{self, Service};
use lab::topology::Proxmox;
use tests::bulk::{Sender, transfer};
use tests::craft::Ip;
use tests::{Nat, Watch, at};

const HUNDRED_MEGABYTES: usize = 100_000_000;

#[test]
fn t1_hundred_megabytes_through_a_forward() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    for sender in [Sender::Client, Sender::Server] {
        let to = at(Proxmox::PUBLIC, 10001);
        let seen = transfer(&net.cli, to, &net.vm1, 10001, sender, HUNDRED_MEGABYTES)
            .with_context(|| format!("{sender:?} sends"))?;
        ensure!(*seen.ip() == Proxmox::CLI, "seen as {seen}");
    }
    Ok(())
}

#[test]
fn t1_hundred_megabytes_through_masquerade() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    for sender in [Sender::Client, Sender::Server] {
        let to = at(Proxmox::CLI, 7000);
        let seen = transfer(&net.vm1, to, &net.cli, 7000, sender, HUNDRED_MEGABYTES)
            .with_context(|| format!("{sender:?} sends"))?;
        ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    }
    Ok(())
}

/// MSS, SACK permitted, timestamps, window scale, a fast open cookie, MPTCP's MP_CAPABLE.
const SYN_OPTIONS: [u8; 36] = [
    2, 4, 0x05, 0xb4, //
    4, 2, 8, 10, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0, //
    1, 3, 3, 7, //
    34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, //
    30, 4, 0x01, 0x01,
];

#[test]
fn t8_options_are_untouched() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);

    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).syn(5000, 7000, &SYN_OPTIONS)?;
    net.inject_from_guest(&net.vm1, &packet)?;
    let sent = watch.sent(|packet| packet.ports() == Some((5000, 7000)))?;
    ensure!(sent.source == Proxmox::PUBLIC, "{sent}");
    ensure!(
        matches!(&sent.l4, L4::Tcp { options, .. } if *options == SYN_OPTIONS),
        "{sent:?}"
    );

    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).syn(7000, 10001, &SYN_OPTIONS)?;
    net.inject_from_internet(&packet)?;
    let (frame, got) = guest.wait_for(|_, packet| packet.ports() == Some((7000, 10001)))?;
    ensure!(got.destination == Proxmox::VM1, "{got}");
    ensure!(
        matches!(&got.l4, L4::Tcp { options, .. } if *options == SYN_OPTIONS),
        "{got:?}"
    );
    frame.checksums()?;
    watch.finish().map(drop)
}

#[test]
fn t10_hairpin_connects_from_another_guest_and_from_the_server_itself() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    for guest in [&net.vm2, &net.vm1] {
        let page = service::http_get(guest, at(Proxmox::PUBLIC, 10080))
            .with_context(|| format!("from {}", guest.name()))?;
        ensure!(page.starts_with("vm1 sees "), "{page}");
    }
    // An inside source would have been answered directly, past the NAT.
    for peer in web.peers() {
        ensure!(
            peer.ip() != Proxmox::VM1 && peer.ip() != Proxmox::VM2,
            "seen as {peer}"
        );
    }
    Ok(())
}

#[test]
fn t10_hairpin_carries_data_both_ways() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    for guest in [&net.vm2, &net.vm1] {
        for sender in [Sender::Client, Sender::Server] {
            let to = at(Proxmox::PUBLIC, 10001);
            transfer(guest, to, &net.vm1, 10001, sender, 5_000_000)
                .with_context(|| format!("from {}, {sender:?} sends", guest.name()))?;
        }
    }
    Ok(())
}
