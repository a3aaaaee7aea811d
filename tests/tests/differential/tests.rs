//! The tests themselves, and those of the comparison: that it can fail.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::differential::compare::{Came, Out, Pair, outputs};
use crate::differential::decisions::{DECISIONS, Decision, explain};
use crate::differential::generate::Generator;
use crate::differential::model::{
    Cause, Direction, Flow, Kind, Model, NATBPF, NFTABLES, Shape, Stimulus,
};
use crate::differential::run::{Plan, Tally, run};
use crate::differential::twin::{Manner, PUBLIC, Place, Side, VM1, VM2, stay_on_one_cpu};
use kit::flawed::{Body, Dress, Flaw};
use nat_common::wire::protocol::UDP;

/// The seed and the number of packets unless `NATBPF_DIFF_SEED` and `NATBPF_DIFF_PACKETS` say
/// otherwise.
const SEED: u64 = 1;
const PACKETS: u64 = 20_000;
/// How many flows begin with two packets at once.
const PAIRS: usize = 200;

pub(crate) fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is {text:?}")),
        Err(_) => Ok(otherwise),
    }
}

fn plan(test: &'static str, manner: Manner, seed: u64) -> Result<Plan> {
    Ok(Plan {
        test,
        manner,
        seed: number("NATBPF_DIFF_SEED", seed)?,
        packets: number("NATBPF_DIFF_PACKETS", PACKETS)? as usize,
        fault: None,
    })
}

/// A run in which hardly anything is translated compares nothing. Short ones are by hand.
fn translated_much(tally: &Tally) -> Result<()> {
    let enough = tally.packets < 1000 || tally.translated * 2 > tally.packets;
    ensure!(enough, "hardly anything was translated: {tally:?}");
    Ok(())
}

#[test]
fn as_netfilter() -> Result<()> {
    translated_much(&run(plan("as_netfilter", Manner::Netfilter, SEED)?)?)
}

#[test]
fn by_default() -> Result<()> {
    let plan = plan("by_default", Manner::Default, SEED)?;
    let tally = run(plan)?;
    translated_much(&tally)?;
    if (plan.seed, plan.packets as u64) == (SEED, PACKETS) {
        for Decision { name, .. } in DECISIONS {
            let used = tally.explained.contains_key(name);
            ensure!(used, "{name} explains nothing: it is to be taken out");
        }
    }
    Ok(())
}

/// What connection tracking calls invalid is dropped, and what belongs to a connection passes: so
/// rules of both hosts must see the same connections.
#[test]
fn behind_a_stateful_firewall() -> Result<()> {
    let plan = plan("behind_a_stateful_firewall", Manner::Firewall, SEED)?;
    translated_much(&run(Plan {
        packets: plan.packets / 4,
        ..plan
    })?)
}

#[test]
fn behind_a_firewall_whose_rules_come_and_go() -> Result<()> {
    let test = "behind_a_firewall_whose_rules_come_and_go";
    let plan = plan(test, Manner::ChangingFirewall, SEED)?;
    let tally = run(Plan {
        packets: plan.packets / 4,
        ..plan
    })?;
    ensure!(tally.translated > 0, "nothing was translated: {tally:?}");
    Ok(())
}

/// New random packets. The seed is in the output, and in the report of a failure.
#[test]
fn by_chance() -> Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 % 1_000_000;
    let plan = plan("by_chance", Manner::Default, seed)?;
    translated_much(&run(Plan {
        packets: plan.packets / 4,
        ..plan
    })?)
}

/// One forward leads to another port than it should.
#[test]
fn a_wrong_port_is_found() -> Result<()> {
    let found = run(Plan {
        test: "a_wrong_port_is_found",
        manner: Manner::Netfilter,
        seed: SEED,
        packets: 2000,
        fault: Some(("to_ports = 53", "to_ports = 54")),
    });
    let report = found.err().context("nothing was found")?.to_string();
    for part in [
        "NATBPF_DIFF_SEED=1",
        "nftables: ",
        "natbpf: ",
        "172.22.161.170:54",
    ] {
        ensure!(
            report.contains(part),
            "{part:?} is not in the report:\n{report}"
        );
    }
    Ok(())
}

/// Two CPUs race for the session, the port and the mapping of a new flow.
#[test]
fn two_packets_of_a_new_flow_at_once_are_translated_alike() -> Result<()> {
    stay_on_one_cpu()?;
    let plan = plan("two_packets", Manner::Default, SEED)?;
    println!("seed {}", plan.seed);
    let mut side = Side::natbpf(plan.manner, None)?;
    let mut model = Model::new(plan.manner);
    let mut generator = Generator::new(plan.seed);
    for number in 0..PAIRS {
        let stimulus = generator.beginning(&mut model);
        let (at, packet) = model.sent(&stimulus, NATBPF);
        let packet = packet.whole();
        let mut outs = outputs(&side.send_at_once(at, &packet)?);
        let is_twice = matches!(&outs[..], [one, other] if one.is_same(other));
        let flow = &model.flows[stimulus.flow];
        ensure!(
            is_twice,
            "pair {number}, {flow:?}: {outs:?}\n{}",
            side.account()
        );
        outs.truncate(1);
        let [source, _] = outs[0].ends().context("what came out")?;
        ensure!(
            model.learn(&stimulus, NATBPF, source),
            "pair {number}: two flows are shown as one"
        );
        let pair = Pair {
            model: &model,
            stimulus: &stimulus,
            outs: &[Vec::new(), outs],
        };
        let came = pair.came(NATBPF);
        ensure!(came == Came::Translated, "pair {number}: {came:?}");
    }
    Ok(())
}

/// A datagram from vm1 to the internet, in a model that knows its flow.
fn datagram() -> (Model, Stimulus) {
    let mut model = Model::new(Manner::Default);
    let remote = (Ipv4Addr::new(198, 51, 100, 2), 53);
    let ends = [(VM1, 40000), remote, remote];
    let flow = model.add(Flow::new(Kind::Out, UDP, ends, [0; 2]));
    let stimulus = Stimulus {
        cause: Cause::Regular,
        flow: flow.expect("the first flow is new"),
        direction: Direction::Request,
        shape: Shape::Own(Body::Udp {
            payload: b"as it was sent".to_vec(),
            summed: true,
        }),
        dress: Dress {
            ttl: 64,
            tos: 0x2c,
            id: 77,
            dont_fragment: true,
            options: Vec::new(),
            fragments: 1,
            is_reversed: false,
            padding: 0,
        },
        flaw: Flaw::None,
        is_doubled: false,
    };
    // Each host shows vm1 under another port.
    assert!(model.learn(&stimulus, NFTABLES, (PUBLIC, 40000)));
    assert!(model.learn(&stimulus, NATBPF, (PUBLIC, 51234)));
    (model, stimulus)
}

fn translated(model: &Model, stimulus: &Stimulus, side: usize) -> Out {
    let (place, packet) = model.translated(stimulus, side);
    Out::new(place, packet.whole())
}

#[test]
fn packets_that_differ_in_the_chosen_port_alone_are_alike() {
    let (model, stimulus) = datagram();
    let outs = [NFTABLES, NATBPF].map(|side| vec![translated(&model, &stimulus, side)]);
    assert_ne!(outs[NFTABLES][0].bytes, outs[NATBPF][0].bytes);
    let pair = Pair {
        model: &model,
        stimulus: &stimulus,
        outs: &outs,
    };
    assert!(pair.is_alike());
    assert_eq!(pair.came(NATBPF), Came::Translated);
}

#[test]
fn every_flipped_bit_is_a_difference_without_a_name() {
    let (model, stimulus) = datagram();
    let good = [NFTABLES, NATBPF].map(|side| vec![translated(&model, &stimulus, side)]);
    for bit in 0..good[NATBPF][0].bytes.len() * 8 {
        let mut outs = good.clone();
        outs[NATBPF][0].bytes[bit / 8] ^= 1 << (bit % 8);
        let pair = Pair {
            model: &model,
            stimulus: &stimulus,
            outs: &outs,
        };
        assert!(!pair.is_alike(), "bit {bit}");
        let decision = explain(&pair).map(|decision| decision.name);
        assert_eq!(decision, None, "bit {bit}");
    }
}

#[test]
fn a_packet_that_is_lost_doubled_or_elsewhere_is_a_difference_without_a_name() {
    let (model, stimulus) = datagram();
    let [one, other] = [NFTABLES, NATBPF].map(|side| translated(&model, &stimulus, side));
    let elsewhere = Out::new(Place::Vm2, other.bytes.clone());
    for natbpf in [vec![], vec![other.clone(), other.clone()], vec![elsewhere]] {
        let outs = [vec![one.clone()], natbpf];
        let pair = Pair {
            model: &model,
            stimulus: &stimulus,
            outs: &outs,
        };
        assert!(!pair.is_alike());
        assert!(explain(&pair).is_none());
    }
}

#[test]
fn two_guests_under_one_port_are_noticed() {
    let (mut model, stimulus) = datagram();
    let flow = model.flows[stimulus.flow].clone();
    let ends = [(VM2, 40000), flow.target, flow.server];
    let second = model.add(Flow::new(Kind::Out, UDP, ends, [0; 2]));
    let stimulus = Stimulus {
        flow: second.expect("the second flow is new"),
        ..stimulus
    };
    assert!(model.learn(&stimulus, NFTABLES, (PUBLIC, 40001)));
    assert!(!model.learn(&stimulus, NATBPF, (PUBLIC, 51234)));
}
