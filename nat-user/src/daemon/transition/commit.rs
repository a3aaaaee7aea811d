//! The last stage: the state says what is in use now.

use anyhow::Result;
use nat_config::model::UplinkId;
use nat_sys::netlink::Layer;

use super::{
    active::{Active, Wanted},
    attach::Attached,
    compile::Compiled,
};
use crate::daemon::{external, interface_states::Attachments};

impl Attached<'_> {
    /// Notes what is in use, for the next transition and on disk.
    pub(super) fn commit(self, active: &mut Active) -> Result<()> {
        let Self {
            compiled,
            targets,
            refused,
            begun,
        } = self;
        let Wanted {
            options,
            config,
            host,
            ..
        } = compiled.wanted;
        for (_, why) in &refused {
            log::warn!("XDP is not used: {why}");
        }
        log::info!(
            "generation {} in use after {} ms",
            active.state.generation,
            begun.elapsed().as_millis()
        );
        let attachments = Attachments {
            config,
            host,
            interfaces: &compiled.interfaces,
            targets: &targets,
            refused: &refused,
        };
        active.state.interfaces = attachments.states();
        active.note_external(&compiled);
        active.applied = compiled.applied();
        active.state.save(&options.run_dir)
    }
}

impl Active {
    /// Records who has the external addresses of each uplink.
    fn note_external(&mut self, compiled: &Compiled<'_>) {
        let Wanted {
            config,
            host,
            changes,
            claims,
            ..
        } = compiled.wanted;
        for (uplink, id) in config.uplinks.iter().zip((0..).map(UplinkId)) {
            let name = &uplink.interface;
            let added = external::added_to(name, changes);
            let link = host.link(name);
            let has_arp = link.is_some_and(|link| link.layer == Layer::Ethernet);
            let mut states = self.state.interfaces.iter_mut();
            let state = states.find(|state| state.role == "uplink" && state.owner == uplink.name);
            if let Some(state) = state {
                let arp = (&added, has_arp);
                state.external = external::external(config, &compiled.environment, id, arp, claims);
            }
        }
    }
}
