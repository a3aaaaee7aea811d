//! The second stage: the kernel accepts the programs, and the tables are large enough.

use std::time::Instant;

use anyhow::{Result, bail};

use super::{active::Active, compile::Compiled};
use crate::{
    daemon::{host::Host, options::Options},
    dataplane::attach::{self, Target, XdpWish},
};

/// Everything that the kernel could refuse to load is loaded.
pub(super) struct Loaded<'a> {
    pub(super) compiled: Compiled<'a>,
    /// Where to attach, without XDP where other software has it.
    pub(super) targets: Vec<Target>,
    /// Where that is, by index, and why.
    pub(super) refused: Vec<(u32, String)>,
}

impl<'a> Compiled<'a> {
    /// Makes room in the tables and loads the programs. When that fails, the rules and attachments
    /// in use stay.
    pub(super) fn load(self, active: &mut Active) -> Result<Loaded<'a>> {
        let (config, options) = (self.wanted.config, self.wanted.options);
        let rules = self.numbers.rule_count();
        let mut targets = self.targets.clone();
        // (Other tables have other programs, which the look at the host has not seen.)
        let refused = leave_foreign_xdp(&mut targets, self.wanted.host, options)?;
        active.make_room(config, rules, options.log_packets)?;
        let begun = Instant::now();
        attach::load_programs(&mut active.tables.programs, &targets)?;
        log::info!("programs loaded in {} ms", begun.elapsed().as_millis());
        Ok(Loaded {
            compiled: self,
            targets,
            refused,
        })
    }
}

/// Gives up XDP where a foreign program uses it. Returns where, and whose program it is.
fn leave_foreign_xdp(
    targets: &mut [Target],
    host: &Host,
    options: &Options,
) -> Result<Vec<(u32, String)>> {
    let mut refused = Vec::new();
    for target in targets.iter_mut().filter(|one| one.xdp != XdpWish::No) {
        let link = host.link_at(target.index);
        let Some(why) = link.and_then(|link| nat_findings::foreign_xdp(link, &options.bpffs))
        else {
            continue;
        };
        if target.xdp == XdpWish::Must {
            bail!(
                "attach nat_early to {name}: XDP {why}; detach it (ip link set dev {name} xdp \
                 off), or set mode = \"tc\"",
                name = target.name
            );
        }
        target.xdp = XdpWish::No;
        refused.push((target.index, why));
    }
    Ok(refused)
}
