//! Steps that run at the same time: the steps of a lane one after the other, lanes beside each
//! other.

use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::Instant;

use bpf_toolchain::output;

use super::outcome::Outcome;
use super::report::{Report, Step};

/// Steps that run one after the other.
#[derive(Default)]
pub(super) struct Lane<'a>(Vec<Planned<'a>>);

/// A step that has not run yet.
struct Planned<'a> {
    name: String,
    make: Box<dyn FnOnce() -> Outcome + Send + 'a>,
}

impl<'a> Lane<'a> {
    /// Adds a step at the end.
    pub(super) fn add(&mut self, name: &str, make: impl FnOnce() -> Outcome + Send + 'a) {
        self.0.push(Planned {
            name: name.to_owned(),
            make: Box::new(make),
        });
    }

    /// Runs all steps, even after a failure. Each line begins with the step's name.
    fn run_labelled(self) -> Vec<Step> {
        let steps = self.0.into_iter();
        steps
            .map(|step| output::labelled(&step.name.clone(), || step.run()))
            .collect()
    }
}

impl Planned<'_> {
    /// Runs it, and says when it begins and how it ended. A panic is its failure alone.
    fn run(self) -> Step {
        output::say("begins");
        let start = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(self.make))
            .unwrap_or_else(|_| Outcome::failure("it panicked; the message is above".to_owned()));
        let step = Step {
            name: self.name,
            seconds: start.elapsed().as_secs_f64(),
            is_beside_others: true,
            outcome,
        };
        let Outcome { passed, failed, .. } = step.outcome;
        let seconds = step.seconds;
        output::say(&format!(
            "ended after {seconds:.1} s: {passed} passed, {failed} failed"
        ));
        step
    }
}

impl Report {
    /// Runs lanes beside each other. One lane alone runs as if there were none.
    pub(super) fn run_lanes(&mut self, lanes: Vec<Lane<'_>>) {
        let mut lanes: Vec<_> = lanes
            .into_iter()
            .filter(|lane| !lane.0.is_empty())
            .collect();
        if lanes.len() == 1 {
            for step in lanes.remove(0).0 {
                self.step(&step.name, step.make);
            }
            return;
        }
        let names = |lane: &Lane<'_>| {
            let names: Vec<_> = lane.0.iter().map(|step| step.name.as_str()).collect();
            names.join(", ")
        };
        let plan: Vec<_> = lanes.iter().map(names).collect();
        eprintln!("\n==> {}", plan.join("; beside: "));
        let done = thread::scope(|scope| {
            let running = lanes.into_iter();
            let running: Vec<_> = running
                .map(|lane| scope.spawn(move || lane.run_labelled()))
                .collect();
            let results = running.into_iter().map(|lane| lane.join());
            results
                .flat_map(|steps| steps.expect("a lane does not panic"))
                .collect::<Vec<_>>()
        });
        self.steps.extend(done);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, Mutex};

    use super::*;

    fn passed(count: usize) -> Outcome {
        Outcome {
            passed: count,
            ..Outcome::default()
        }
    }

    #[test]
    fn lanes_run_at_the_same_time_and_their_steps_one_after_the_other() {
        let both = Barrier::new(2);
        let order = Mutex::new(Vec::new());
        let (mut left, mut right) = (Lane::default(), Lane::default());
        left.add("first", || {
            both.wait();
            order.lock().unwrap().push("first");
            passed(1)
        });
        left.add("second", || {
            order.lock().unwrap().push("second");
            passed(2)
        });
        right.add("other", || {
            both.wait();
            passed(4)
        });
        let mut report = Report::default();
        report.run_lanes(vec![left, right]);
        assert_eq!(*order.lock().unwrap(), ["first", "second"]);
        assert_eq!((report.passed(), report.failed()), (7, 0));
    }

    #[test]
    fn a_failure_or_a_panic_in_one_lane_hides_no_other() {
        let (mut left, mut right) = (Lane::default(), Lane::default());
        left.add("panics", || panic!("on purpose"));
        left.add("runs on", || passed(1));
        right.add("fails", || Outcome::failure("broken".to_owned()));
        right.add("runs too", || passed(2));
        let mut report = Report::default();
        report.run_lanes(vec![left, right]);
        assert_eq!((report.passed(), report.failed()), (3, 2));
        let text = report.to_string();
        assert!(
            text.contains("it panicked") && text.contains("broken"),
            "{text}"
        );
    }

    #[test]
    fn a_lane_alone_runs_without_labels() {
        let mut lane = Lane::default();
        lane.add("alone", || match output::label() {
            None => passed(1),
            Some(label) => Outcome::failure(label),
        });
        let mut report = Report::default();
        report.run_lanes(vec![Lane::default(), lane]);
        assert_eq!((report.passed(), report.failed()), (1, 0));
    }
}
