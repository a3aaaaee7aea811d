//! One dnsmasq or unbound, kept running.

use std::time::{Duration, Instant};

use super::{
    conf::Conf,
    files::{Files, Program},
    process::{self, Process},
    stall::{Stall, Waiting},
};
use crate::backoff::Backoff;

/// The pause before a dnsmasq that has ended is restarted.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(60);
/// A dnsmasq that has run this long is healthy.
const IS_WELL_AFTER: Duration = Duration::from_secs(60);

/// One dnsmasq, or one unbound.
pub(super) struct Service {
    network: String,
    files: Files,
    pub(super) conf: Conf,
    condition: Condition,
    backoff: Backoff,
}

enum Condition {
    Running {
        process: Process,
        since: Instant,
        stall: Stall,
    },
    Waiting {
        until: Instant,
        why: String,
    },
}

impl Condition {
    fn running(process: Process) -> Self {
        Self::Running {
            process,
            since: Instant::now(),
            stall: Stall::default(),
        }
    }
}

impl Service {
    pub(super) async fn take_over_or_start(network: String, files: Files, conf: Conf) -> Self {
        let mut service = Self {
            network,
            condition: Condition::Waiting {
                until: Instant::now(),
                why: String::new(),
            },
            files,
            conf,
            backoff: Backoff::new(LEAST_PAUSE, MOST_PAUSE),
        };
        match Process::find(&service.files) {
            Some(process) => {
                log::info!("network {}: took over {process}", service.network);
                service.condition = Condition::running(process);
            }
            None => service.start().await,
        }
        service
    }

    async fn start(&mut self) {
        let started = match self.conf.write(&self.files) {
            Ok(()) => process::start(&self.files, &self.conf).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(process) => {
                log::info!("network {}: {process} started", self.network);
                self.condition = Condition::running(process);
            }
            Err(error) => self.wait(format!("{error:#}")),
        }
    }

    pub(super) async fn restart(&mut self, conf: Conf) {
        let waiting = Condition::Waiting {
            until: Instant::now(),
            why: String::new(),
        };
        if let Condition::Running { process, .. } = std::mem::replace(&mut self.condition, waiting)
            && let Err(error) = process.end().await
        {
            log::error!("{error:#}");
        }
        self.conf = conf;
        self.start().await;
    }

    pub(super) async fn care(&mut self, waiting: &Waiting) {
        match &mut self.condition {
            Condition::Running {
                process,
                since,
                stall,
            } => {
                if let Some(how) = process.ended() {
                    let why = match process::last_words(&self.files) {
                        words if words.is_empty() => format!("{process} has ended ({how})"),
                        words => format!("{process} has ended ({how}): {words}"),
                    };
                    self.wait(why);
                } else if stall.hangs((process.pid(), self.conf.address), waiting, Instant::now()) {
                    // The next check finds that it has ended, and starts another one.
                    process.kill();
                    *stall = Stall::default();
                    log::error!("network {}: {process} hangs and is killed", self.network);
                } else if since.elapsed() >= IS_WELL_AFTER {
                    self.backoff.succeeded();
                }
            }
            Condition::Waiting { until, .. } if *until <= Instant::now() => self.start().await,
            Condition::Waiting { .. } => {}
        }
    }

    fn wait(&mut self, why: String) {
        let pause = self.backoff.failed();
        let seconds = pause.as_secs();
        log::error!(
            "network {}: {why}; tried again in {seconds} s",
            self.network
        );
        self.condition = Condition::Waiting {
            until: Instant::now() + pause,
            why,
        };
    }

    pub(super) fn problem(&self) -> Option<String> {
        match &self.condition {
            Condition::Running { .. } => None,
            Condition::Waiting { why, .. } => {
                let what = match self.files.program {
                    Program::Dnsmasq => "no DHCP and no DNS",
                    Program::Unbound => "no names but those of guests",
                };
                let network = &self.network;
                Some(format!(
                    "network {network}: {what}: {why}; it is tried again"
                ))
            }
        }
    }

    pub(super) fn into_process(self) -> Option<Process> {
        match self.condition {
            Condition::Running { process, .. } => Some(process),
            Condition::Waiting { .. } => None,
        }
    }
}
