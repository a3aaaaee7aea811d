//! Reports conflicts with other software on this host: once at the start, and changes at each
//! reload.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use nat_config::model::Config;
use nat_findings::Finding;

/// What was found last.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    known: Arc<Mutex<Vec<Finding>>>,
}

impl Neighbours {
    /// Checks, and reports new and resolved conflicts. Packets are translated in the meantime.
    pub(super) fn look(&self, config: &Config, bpffs: &Path) {
        let known = Arc::clone(&self.known);
        let (config, bpffs) = (config.clone(), bpffs.to_owned());
        tokio::spawn(async move {
            let found = nat_findings::look_if_possible(&config, &bpffs).await;
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            for finding in found.iter().filter(|one| !known.contains(one)) {
                log::warn!("{finding}");
            }
            for Finding { place, what, .. } in known.iter().filter(|one| !found.contains(one)) {
                log::info!("resolved: {place}: {what}");
            }
            *known = found;
        });
    }
}
