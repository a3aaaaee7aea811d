//! The run: step by step on both hosts, until a difference has no name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::differential::compare::{Came, Out, Pair, outputs, show};
use crate::differential::decisions::{all, explain};
use crate::differential::generate::Generator;
use crate::differential::model::{Cause, Direction, Model, NATBPF, NFTABLES, Shape, Stimulus};
use crate::differential::twin::{DROPS, Manner, Place, Side, stay_on_one_cpu};
use nat_common::wire::protocol::{TCP, UDP};

/// So many packets go before a firewall that changes does so.
const CHANGE: usize = 50;

/// How to do the same again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The test's name, to call it by.
    pub(crate) test: &'static str,
    pub(crate) manner: Manner,
    pub(crate) seed: u64,
    pub(crate) packets: usize,
    /// What is changed in natbpf's rules, and into what, for a test of the test.
    pub(crate) fault: Option<(&'static str, &'static str)>,
}

/// What came of all packets.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) packets: usize,
    pub(crate) alike: usize,
    /// Of those alike, how many came out translated.
    pub(crate) translated: usize,
    /// How many differences each decision has explained.
    pub(crate) explained: BTreeMap<&'static str, usize>,
}

struct Run {
    plan: Plan,
    model: Model,
    sides: [Side; 2],
    tally: Tally,
}

/// Sends the packets of a plan on both hosts and compares.
///
/// # Errors
/// At the first difference without a decision.
pub(crate) fn run(plan: Plan) -> Result<Tally> {
    stay_on_one_cpu()?;
    let start = Instant::now();
    let mut run = Run {
        plan,
        model: Model::new(plan.manner),
        sides: [
            Side::nftables(plan.manner)?,
            Side::natbpf(plan.manner, plan.fault)?,
        ],
        tally: Tally::default(),
    };
    let mut generator = Generator::new(plan.seed);
    while run.tally.packets < plan.packets {
        if plan.manner == Manner::ChangingFirewall && run.tally.packets.is_multiple_of(CHANGE) {
            let drops = generator.choice(1 << DROPS.len());
            for side in &run.sides {
                side.set_firewall(plan.manner, drops)?;
            }
        }
        let stimulus = generator.next(&mut run.model);
        run.step(&stimulus)?;
    }
    println!("{}", run.summary(start.elapsed().as_secs_f64()));
    Ok(run.tally)
}

impl Run {
    fn step(&mut self, stimulus: &Stimulus) -> Result<()> {
        self.tally.packets += 1;
        let mut outs = [Vec::new(), Vec::new()];
        for side in [NFTABLES, NATBPF] {
            let (at, written) = self.model.sent(stimulus, side);
            let mut packets = written.packets();
            if at == Place::Host && written.body.protocol() == UDP {
                self.sides[side].hold(written.from.1)?;
            }
            if stimulus.cause == Cause::FirstFragmentOnly {
                packets.truncate(1);
            }
            for packet in &mut packets {
                packet.extend(std::iter::repeat_n(0xaa, stimulus.dress.padding));
            }
            if stimulus.is_doubled {
                packets = packets
                    .into_iter()
                    .flat_map(|packet| [packet.clone(), packet])
                    .collect();
            }
            let caught = self.sides[side].exchange(at, &packets);
            let caught = caught.with_context(|| self.place_of(stimulus))?;
            outs[side] = outputs(&caught);
        }
        // A packet that both hosts output twice counts as one from here on.
        let is_twice = |outs: &Vec<Out>| matches!(&outs[..], [one, other] if one.is_same(other));
        if stimulus.is_doubled && outs.iter().all(is_twice) {
            outs.iter_mut().for_each(|outs| outs.truncate(1));
        }
        for side in [NFTABLES, NATBPF] {
            self.learn(stimulus, side, &outs)?;
        }
        self.judge(stimulus, &outs)
    }

    /// Takes the chosen port from the packet that opens a flow, or opens it again.
    fn learn(&mut self, stimulus: &Stimulus, side: usize, outs: &[Vec<Out>; 2]) -> Result<()> {
        let flow = &self.model.flows[stimulus.flow];
        let opens = flow.shown_port[side].is_none() || stimulus.cause == Cause::Reopening;
        let is_request = stimulus.direction == Direction::Request;
        let (Shape::Own(_), true, [out]) = (&stimulus.shape, opens && is_request, &outs[side][..])
        else {
            return Ok(());
        };
        let (place, packet) = self.model.translated(stimulus, side);
        let Some([source, destination]) = out.ends() else {
            return Ok(());
        };
        let is_there = out.place == place && destination == packet.to;
        if !is_there || source.0 != flow.shown(side).0 {
            return Ok(());
        }
        if self.model.learn(stimulus, side, source) {
            return Ok(());
        }
        bail!(
            "two flows are shown as one\n{}",
            self.report(stimulus, outs)
        )
    }

    fn judge(&mut self, stimulus: &Stimulus, outs: &[Vec<Out>; 2]) -> Result<()> {
        let pair = Pair {
            model: &self.model,
            stimulus,
            outs,
        };
        let came = [pair.came(NFTABLES), pair.came(NATBPF)];
        if pair.is_alike() {
            self.tally.alike += 1;
            self.tally.translated += usize::from(came[NATBPF] == Came::Translated);
        } else if let Some(decision) = explain(&pair) {
            *self.tally.explained.entry(decision.name).or_default() += 1;
        } else {
            bail!("{}", self.report(stimulus, outs));
        }
        if stimulus.cause == Cause::NearReset {
            // Whether it has ended the connection, each host judges by itself.
            self.model.flows[stimulus.flow].is_usable = false;
        } else if came == [Came::Translated; 2] {
            self.model.follow(stimulus);
            let flow = &mut self.model.flows[stimulus.flow];
            // The host has no such connection, and resets it.
            flow.is_usable &= flow.protocol != TCP || !flow.is_for_host(stimulus.direction);
        } else if !stimulus.leaves_no_trace() {
            // The two went different ways: what follows on this flow would too.
            self.model.flows[stimulus.flow].is_usable = false;
        }
        Ok(())
    }

    /// Everything that is needed to understand a difference, and to see it again.
    fn report(&self, stimulus: &Stimulus, outs: &[Vec<Out>; 2]) -> String {
        let mut text = self.place_of(stimulus);
        let pair = Pair {
            model: &self.model,
            stimulus,
            outs,
        };
        let _ = writeln!(text, "\nflow {:?}", self.model.flows[stimulus.flow]);
        for (side, name) in [(NFTABLES, "nftables"), (NATBPF, "natbpf")] {
            let (at, written) = self.model.sent(stimulus, side);
            let _ = writeln!(text, "{name}: {:?}", pair.came(side));
            for packet in written.packets() {
                let _ = write!(text, "    in  ");
                let _ = show(&mut text, at, &packet);
                let _ = writeln!(text);
            }
            for out in &outs[side] {
                let _ = writeln!(text, "    out {out}");
            }
        }
        let _ = write!(text, "{}", self.sides[NATBPF].account());
        text
    }

    fn place_of(&self, stimulus: &Stimulus) -> String {
        let Plan { test, seed, .. } = self.plan;
        let step = self.tally.packets;
        format!(
            "seed {seed}, step {step}: {:?} {:?} {:?}\nagain: NATBPF_DIFF_SEED={seed} \
             NATBPF_DIFF_PACKETS={step} cargo xtask test differential -- {test}",
            stimulus.cause, stimulus.direction, stimulus.flaw
        )
    }

    fn summary(&self, seconds: f64) -> String {
        let Tally {
            packets,
            alike,
            translated,
            explained,
        } = &self.tally;
        let Plan { test, seed, .. } = self.plan;
        let decided: usize = explained.values().sum();
        let mut text = format!(
            "differential {test}, seed {seed}: {packets} packets in {seconds:.1} s, {alike} \
             alike ({translated} translated), {decided} by decision"
        );
        for decision in all() {
            if let Some(count) = explained.get(decision.name) {
                let _ = write!(text, "\n{count:>7} {}: {}", decision.name, decision.why);
            }
        }
        text
    }
}
