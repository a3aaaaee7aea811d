//! The run: step by step on both hosts, until a difference has no name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::differential::compare::{Came, Out, Pair, outputs, show};
use crate::differential::decisions::{DECISIONS, explain};
use crate::differential::generate::{Generator, LEFT_OUT};
use crate::differential::model::{Cause, Model, NATBPF, NFTABLES, Shape, Stimulus};
use crate::differential::twin::{Manner, Side, stay_on_one_cpu};

/// How to do the same again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) manner: Manner,
    pub(crate) seed: u64,
    pub(crate) packets: usize,
}

/// What came of all packets.
#[derive(Debug, Default)]
struct Tally {
    packets: usize,
    alike: usize,
    /// Of those alike, how many came out translated.
    translated: usize,
    explained: BTreeMap<&'static str, usize>,
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
/// At the first difference that is nobody's decision.
pub(crate) fn run(plan: Plan) -> Result<()> {
    stay_on_one_cpu()?;
    let start = Instant::now();
    let mut run = Run {
        plan,
        model: Model::new(plan.manner),
        sides: [Side::nftables()?, Side::natbpf(plan.manner)?],
        tally: Tally::default(),
    };
    let mut generator = Generator::new(plan.seed);
    while run.tally.packets < plan.packets {
        let stimulus = generator.next(&mut run.model);
        run.step(&stimulus)?;
    }
    println!("{}", run.summary(start.elapsed().as_secs_f64()));
    Ok(())
}

impl Run {
    fn step(&mut self, stimulus: &Stimulus) -> Result<()> {
        let mut outs = [Vec::new(), Vec::new()];
        for side in [NFTABLES, NATBPF] {
            let (at, written) = self.model.sent(stimulus, side);
            let mut packets = written.packets();
            if stimulus.cause == Cause::FirstFragmentOnly {
                packets.truncate(1);
            }
            let caught = self.sides[side].exchange(at, &packets);
            let caught = caught.with_context(|| self.place_of(stimulus))?;
            outs[side] = outputs(&caught);
        }
        self.tally.packets += 1;
        for side in [NFTABLES, NATBPF] {
            self.learn(stimulus, side, &outs)?;
        }
        self.judge(stimulus, &outs)
    }

    /// Takes the chosen port from the packet that opens a flow, or opens it again.
    fn learn(&mut self, stimulus: &Stimulus, side: usize, outs: &[Vec<Out>; 2]) -> Result<()> {
        let flow = &self.model.flows[stimulus.flow];
        let opens = flow.shown_port[side].is_none() || stimulus.cause == Cause::Reopening;
        let is_request = stimulus.direction == crate::differential::model::Direction::Request;
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
        if std::env::var_os("NATBPF_DIFF_SURVEY").is_some() {
            println!("STEP {} flow {} {:?} {:?} {:x?} {:?} {came:?}", self.tally.packets, stimulus.flow, stimulus.cause, stimulus.direction, stimulus.flags(), stimulus.dress.ttl);
        }
        if pair.is_alike() {
            self.tally.alike += 1;
            self.tally.translated += usize::from(came[NATBPF] == Came::Translated);
        } else if let Some(decision) = explain(&pair) {
            *self.tally.explained.entry(decision.name).or_default() += 1;
        } else if std::env::var_os("NATBPF_DIFF_SURVEY").is_some() {
            let flow = &self.model.flows[stimulus.flow];
            println!("KEY {:?}|{:?}|{:?}|p{}|{:x?}|{:?}|{:?}>{:?} err={} ds={}", stimulus.cause, flow.kind, stimulus.direction, flow.protocol, stimulus.flags(), stimulus.flaw, came[0], came[1], stimulus.is_error(), flow.target.0);
            println!("{}", self.report(stimulus, outs));
            *self.tally.explained.entry("UNEXPLAINED").or_default() += 1;
        } else {
            bail!("{}", self.report(stimulus, outs));
        }
        if came == [Came::Translated; 2] {
            self.model.follow(stimulus);
        } else if !stimulus.is_error() && !matches!(stimulus.cause, Cause::OffWindow | Cause::LastHop | Cause::Probe | Cause::Flawed) {
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
        let Plan { manner, seed, .. } = self.plan;
        let step = self.tally.packets;
        let test = match manner {
            Manner::Netfilter => "as_netfilter",
            Manner::Default => "by_default",
        };
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
        let Plan { manner, seed, .. } = self.plan;
        let decided: usize = explained.values().sum();
        let mut text = format!(
            "differential {manner:?}, seed {seed}: {packets} packets in {seconds:.1} s, {alike} \
             alike ({translated} translated), {decided} by decision"
        );
        for decision in DECISIONS {
            if let Some(count) = explained.get(decision.name) {
                let _ = write!(text, "\n{count:>7} {}: {}", decision.name, decision.why);
            }
        }
        for (_, reason) in LEFT_OUT {
            let _ = write!(text, "\n   left out: {reason}");
        }
        text
    }
}
