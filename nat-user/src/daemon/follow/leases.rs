//! DHCP and DNS of a running configuration, and rules that follow leases.

use anyhow::Result;

use crate::daemon::{fast_path::Cause, host::Host, identity, instance::Instance};

impl Instance {
    /// Serves DHCP and DNS on the existing networks, as configured.
    pub(in crate::daemon) async fn follow_services(&mut self) {
        match self.netlink.links().await {
            Ok(links) => {
                let interfaces = links.into_iter().map(|link| (link.name, link.index));
                let interfaces = interfaces.collect();
                self.services.follow(&self.config, &interfaces).await;
            }
            Err(error) => log::error!("find interfaces for DHCP and DNS: {error:#}"),
        }
    }

    /// Restarts services that have ended, and follows guests to their new addresses.
    pub(in crate::daemon) async fn supervise_services(&mut self) {
        self.services.care(&self.config).await;
        if self.services.have_leases_changed(&self.config)
            && let Err(error) = self.follow_leases().await
        {
            log::error!("follow a change of leases: {error:#}");
            self.services.look_at_leases_again();
        }
    }

    /// Activates the current addresses of leases. Sessions to other addresses end, as after a
    /// change of the rules.
    async fn follow_leases(&mut self) -> Result<()> {
        let config = self.services.resolve(self.config.clone());
        if config == self.config {
            return Ok(());
        }
        let host = Host::read(&self.netlink, &self.config).await?;
        let before = self.active.before();
        let old_numbers = self.active.state.numbers.clone();
        self.apply(&config, &host)?;
        let new = (&config, &self.active.state.numbers);
        let gone = identity::changed((&self.config, &old_numbers), new);
        let mut ended = self.active.end_changed(&gone)?;
        ended += self.active.end_on_lost_addresses(&before)?;
        self.config = config;
        self.services.tell(&self.config);
        self.follow_next_hops(Cause::Surroundings).await?;
        log::info!("followed a change of leases; {ended} sessions ended");
        Ok(())
    }
}
