//! A reload: from the configuration in use to the one in the file, or back to the one in use.

use anyhow::{Result, bail};

use super::{
    differences::differences,
    fast_path::Cause,
    identity,
    instance::Instance,
    start::{lasting_warnings, load_config, prepare_host, unreachable_targets},
};
use crate::host::{
    grace::ShortGrace,
    setup::{self, Step},
};

impl Instance {
    /// Reads the configuration again and takes it into use. Returns what changed, line by line.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be taken into use; then the former one is in use again.
    pub(super) async fn reload(&mut self) -> Result<Vec<String>> {
        let loaded = load_config(&self.options)?;
        let unreachable = unreachable_targets(&self.netlink, &loaded).await?;
        if let Some(problem) = unreachable.first() {
            bail!("{problem}");
        }
        let links = self.netlink.links().await?;
        nat_findings::refuse_another(&loaded.config, &links, &self.options.bpffs)?;
        // Deleting a bridge detaches its programs, and the kernel waits for each.
        let (old, new) = (self.config.networks.len(), loaded.config.networks.len());
        let grace = ShortGrace::begin(&self.options.run_dir, old.saturating_sub(new));
        prepare_host(&self.netlink, &mut self.journal, &loaded).await?;
        drop(grace);
        self.active.state.warnings = lasting_warnings(&loaded);
        let host_warnings = self.host_warnings.iter().cloned();
        self.active.state.warnings.extend(host_warnings);
        let config = self.services.resolve(loaded.config);
        let before = self.active.before();
        let old_numbers = self.active.state.numbers.clone();
        if let Err(error) = self.put_in_use(&config).await {
            self.go_back().await;
            return Err(error);
        }
        let mut lines = differences(&self.config, &config);
        let new = (&config, &self.active.state.numbers);
        let gone = identity::changed((&self.config, &old_numbers), new);
        let mut ended = self.active.end_changed(&gone)?;
        ended += self.active.end_moved(&before)?;
        self.config = config;
        self.settle_claims().await?;
        self.follow_next_hops(Cause::Routes).await?;
        self.renew_fast_path().await;
        self.neighbours.look(&self.config, &self.options.bpffs);
        self.follow_services().await;
        let generation = self.active.state.generation;
        lines.push(format!("generation {generation}; {ended} sessions ended"));
        Ok(lines)
    }

    /// Reactivates the configuration that was in use before a failed reload.
    async fn go_back(&mut self) {
        let old = self.config.clone();
        let result = async {
            let plan = self.plan(&old);
            let step = Step::BeforePrograms;
            setup::apply(&self.netlink, &mut self.journal, &plan, step).await?;
            self.put_in_use(&old).await
        };
        if let Err(error) = result.await {
            log::error!("return to the previous configuration: {error:#}");
        }
    }
}
