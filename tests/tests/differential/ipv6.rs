//! The same for IPv6: nftables' `ip6` NAT beside natbpf's, with unique local addresses inside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::differential::tests::number;
use crate::differential::twin::stay_on_one_cpu;
use compare::{Came, Out, Pair, ends, reassembled, show};
use decisions::{DECISIONS, explain};
use flows::{Cause, Model, Step};
use generate::Generator;
use twin::Side;

mod compare;
mod decisions;
mod flows;
mod generate;
mod twin;

/// The seed and the number of packets unless `NATBPF_DIFF_SEED` and `NATBPF_DIFF_PACKETS` say
/// otherwise.
const SEED: u64 = 1;
const PACKETS: u64 = 10_000;

struct Run {
    seed: u64,
    steps: usize,
    model: Model,
    sides: [Side; 2],
    alike: usize,
    translated: usize,
    explained: BTreeMap<&'static str, usize>,
}

impl Run {
    fn new(seed: u64, fault: Option<(&str, &str)>) -> Result<Self> {
        stay_on_one_cpu()?;
        Ok(Self {
            seed,
            steps: 0,
            model: Model::default(),
            sides: [Side::nftables()?, Side::natbpf(fault)?],
            alike: 0,
            translated: 0,
            explained: BTreeMap::new(),
        })
    }

    /// Sends so many packets on both hosts and compares.
    fn go(&mut self, packets: usize) -> Result<()> {
        let begun = Instant::now();
        let mut generator = Generator::new(self.seed);
        while self.steps < packets {
            let step = generator.next(&mut self.model);
            self.step(&step)?;
        }
        let decided: usize = self.explained.values().sum();
        println!(
            "differential IPv6, seed {}: {packets} packets in {:.1} s, {} alike ({} translated), \
             {decided} by decision",
            self.seed,
            begun.elapsed().as_secs_f64(),
            self.alike,
            self.translated,
        );
        for decision in DECISIONS {
            let count = self.explained.get(decision.name).unwrap_or(&0);
            println!("{count:>7} {}: {}", decision.name, decision.why);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        self.steps += 1;
        let mut outs = [Vec::new(), Vec::new()];
        for (side, outs) in outs.iter_mut().enumerate() {
            let (at, packets) = self.model.sent(step, side);
            let caught = self.sides[side].exchange(at, &packets);
            *outs = reassembled(caught.with_context(|| self.place_of(step))?);
        }
        for (side, outs) in outs.iter().enumerate() {
            self.learn(step, side, outs);
        }
        self.judge(step, &outs)
    }

    /// Takes the chosen port from the packet that opens a flow.
    fn learn(&mut self, step: &Step, side: usize, outs: &[Out]) {
        let flow = &self.model.flows[step.flow];
        let ([(place, packet)], Cause::Regular) = (outs, step.cause) else {
            return;
        };
        let expected = self.model.translated(step, side).0;
        let Some([source, destination]) = ends(packet) else {
            return;
        };
        let is_there = *place == expected && destination == flow.server;
        let opens = flow.shown_port[side].is_none() && !step.is_reply;
        if opens && is_there && source.0 == flow.shown(side).0 {
            self.model.flows[step.flow].shown_port[side] = Some(source.1);
        }
    }

    fn judge(&mut self, step: &Step, outs: &[Vec<Out>; 2]) -> Result<()> {
        let pair = Pair {
            model: &self.model,
            step,
            outs,
        };
        let came = [pair.came(0), pair.came(1)];
        if pair.is_alike() {
            self.alike += 1;
            self.translated += usize::from(came[1] == Came::Translated);
        } else if let Some(decision) = explain(&pair) {
            *self.explained.entry(decision.name).or_default() += 1;
        } else {
            bail!("{}", self.report(step, outs));
        }
        if came == [Came::Translated; 2] {
            self.model.follow(step);
        } else if step.cause == Cause::Regular {
            self.model.flows[step.flow].is_usable = false;
        }
        Ok(())
    }

    /// Everything that is needed to understand a difference, and to see it again.
    fn report(&self, step: &Step, outs: &[Vec<Out>; 2]) -> String {
        let mut text = self.place_of(step);
        let pair = Pair {
            model: &self.model,
            step,
            outs,
        };
        let _ = writeln!(text, "\nflow {:?}", self.model.flows[step.flow]);
        for (side, name) in ["nftables", "natbpf"].into_iter().enumerate() {
            let (at, packets) = self.model.sent(step, side);
            let _ = writeln!(text, "{name}: {:?}", pair.came(side));
            for packet in packets {
                show(&mut text, "in ", &(at, packet));
            }
            for out in &outs[side] {
                show(&mut text, "out", out);
            }
        }
        let _ = write!(text, "natbpf's drops: {}", self.sides[1].account());
        text
    }

    fn place_of(&self, step: &Step) -> String {
        let Self { seed, steps, .. } = self;
        format!(
            "seed {seed}, step {steps}: {:?} {:?}\nagain: NATBPF_DIFF_SEED={seed} \
             NATBPF_DIFF_PACKETS={steps} cargo xtask test differential -- ipv6_as_netfilter",
            step.cause, step.shape
        )
    }
}

#[test]
fn ipv6_as_netfilter() -> Result<()> {
    let (seed, packets) = (
        number("NATBPF_DIFF_SEED", SEED)?,
        number("NATBPF_DIFF_PACKETS", PACKETS)?,
    );
    let mut run = Run::new(seed, None)?;
    run.go(packets as usize)?;
    let enough = packets < 1000 || run.translated * 2 > run.steps;
    ensure!(enough, "hardly anything was translated: {}", run.translated);
    if (seed, packets) == (SEED, PACKETS) {
        for decision in DECISIONS {
            let (name, used) = (decision.name, &run.explained);
            ensure!(
                used.contains_key(name),
                "{name} explains nothing: take it out"
            );
        }
    }
    Ok(())
}

/// The test can fail: another port of one forward is found.
#[test]
fn ipv6_a_wrong_forward_is_found() -> Result<()> {
    let fault = Some(("to_ports = 80", "to_ports = 81"));
    let found = Run::new(SEED, fault)?.go(2000);
    let error = found.expect_err("a wrong forward is not found");
    ensure!(format!("{error:#}").contains("again:"), "{error:#}");
    Ok(())
}
