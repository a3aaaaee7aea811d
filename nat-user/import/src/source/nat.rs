//! A forward of everything and a source rule of the same guest, together: `[[nat]]`.

use ipnet::IpNet;

use super::Sources;
use crate::plan::{Nat, Snat};

impl Sources<'_, '_> {
    /// A forward of everything and the source translation of the same guest are one `[[nat]]`.
    pub(super) fn pair(&mut self) {
        let mut index = 0;
        while index < self.plan.forwards.len() {
            let forward = &self.plan.forwards[index];
            let (uplink, to) = (forward.uplink, forward.to);
            let Some(address) = forward.address.filter(|_| forward.is_all()) else {
                index += 1;
                continue;
            };
            let first = self
                .plan
                .snats
                .iter()
                .position(|snat| snat.uplink == uplink && snat.prefix.contains(&to));
            let is_back = |snat: &Snat| {
                snat.prefix == IpNet::from(to)
                    && snat.to == Some((address, address))
                    && snat.exclude.is_empty()
                    && snat.ports.is_none()
            };
            let back = first.filter(|snat| is_back(&self.plan.snats[*snat]));
            let Some(back) = back.filter(|_| !self.plan.forwards[index].spares) else {
                index += 1;
                continue;
            };
            let forward = self.plan.forwards.remove(index);
            let snat = self.plan.snats.remove(back);
            let mut origin = forward.origin;
            snat.origin.rules.iter().for_each(|rule| origin.add(*rule));
            self.plan.nats.push(Nat {
                name: String::new(),
                uplink,
                address: address.into(),
                to: to.into(),
                hairpin: forward.hairpin,
                origin,
            });
        }
    }
}
