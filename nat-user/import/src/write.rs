//! The configuration as text: each table below its source lines.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use ipnet::IpNet;

use super::{
    dump::Dump,
    family::is_unique_local,
    findings::{Findings, Kind, printable},
    plan::{Origin, Plan, PortRange, Snat, Source},
    topology::Topology,
};

/// Gives every rule a name: from the rule's comment, or from its content.
pub(super) fn name(dump: &Dump, topology: &Topology, plan: &mut Plan) {
    let comment = |origin: &Origin| {
        let comments = origin
            .rules
            .iter()
            .filter_map(|rule| dump.rules[*rule].comment.as_deref());
        comments.map(slug).find(|name| !name.is_empty())
    };
    let mut names = Names::default();
    for forward in &mut plan.forwards {
        let about = || {
            let mut name = forward.protocols.join("-");
            match (&forward.ports[..], forward.address) {
                ([(first, last), ..], _) if first == last => name += &format!("-{first}"),
                ([(first, last), ..], _) => name += &format!("-{first}-{last}"),
                ([], Some(address)) => name += &format!("-{address}"),
                ([], None) => {}
            }
            name
        };
        forward.name = names.unique(comment(&forward.origin).unwrap_or_else(about));
    }
    let mut names = Names::default();
    for snat in &mut plan.snats {
        let about = match snat.source {
            Source::Network(network) => topology.networks[network].name.clone(),
            Source::Prefix(prefix) if prefix.prefix_len() == 0 => "all".to_owned(),
            Source::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => {
                prefix.addr().to_string()
            }
            Source::Prefix(prefix) => prefix.to_string(),
        };
        let own = comment(&snat.origin);
        snat.name = names.unique(own.unwrap_or_else(|| format!("{about}-out")));
    }
    let mut names = Names::default();
    for nat in &mut plan.nats {
        nat.name = names.unique(comment(&nat.origin).unwrap_or_else(|| short(&nat.address)));
    }
    let mut names = Names::default();
    for policy in &mut plan.policies {
        let about = std::mem::take(&mut policy.name);
        policy.name = names.unique(comment(&policy.origin).unwrap_or(about));
    }
}

#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn unique(&mut self, name: String) -> String {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut candidates = std::iter::once(name.clone()).chain(numbered);
        let free = candidates
            .find(|name| !self.0.contains(name))
            .unwrap_or(name);
        self.0.insert(free.clone());
        free
    }
}

/// A comment as a name: without blanks, and not too long.
fn slug(comment: &str) -> String {
    let keep = |c: char| {
        if c.is_alphanumeric() || "._/".contains(c) {
            c
        } else {
            '-'
        }
    };
    let words: String = comment.chars().map(keep).collect();
    let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
    words.join("-").chars().take(40).collect()
}

/// The whole configuration.
pub(super) fn configuration(
    file: &str,
    dump: &Dump,
    topology: &Topology,
    plan: &Plan,
    findings: &Findings<'_>,
) -> String {
    let mut writer = Writer {
        text: String::new(),
        dump,
        topology,
        findings,
    };
    writer.head(file);
    writer.uplinks(plan);
    writer.networks(plan);
    writer.snats(plan);
    writer.forwards(plan);
    writer.nats(plan);
    writer.policies(plan);
    writer.untranslated();
    writer.text
}

struct Writer<'a, 'd> {
    text: String,
    dump: &'d Dump,
    topology: &'a Topology,
    findings: &'a Findings<'d>,
}

const OPEN: &str = "What outside opens to guests' own addresses is left to netfilter's FORWARD, \
    as before. Without this line natbpf drops it unless a [[policy]] accepts it.";

/// Comments are as wide as this; rules stay in one line, so that they can be searched for.
const WIDTH: usize = 96;

impl Writer<'_, '_> {
    fn head(&mut self, file: &str) {
        let file = printable(file);
        self.comment(&format!(
            "natbpf's configuration for the rules of {file}, written by `natbpf import iptables`."
        ));
        self.comment(
            "\"check:\" marks what a list of rules cannot say. Above each table are the lines from \
             which it comes. Remove these lines from netfilter when natbpf runs.",
        );
    }

    fn comment(&mut self, text: &str) {
        let mut line = String::from("#");
        for word in text.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                self.line(&line);
                line = String::from("#");
            }
            line.push(' ');
            line += word;
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn key(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    fn text_key(&mut self, key: &str, value: &str) {
        self.key(key, &quoted(value));
    }

    fn origin(&mut self, origin: &Origin) {
        let mut rules = origin.rules.clone();
        rules.sort_by_key(|rule| self.dump.rules[*rule].line);
        for rule in rules {
            let written = &self.dump.rules[rule];
            let line = format!("# line {}: {}", written.line, printable(&written.text));
            self.line(&line);
            let warnings: Vec<String> = self
                .findings
                .warnings_of(rule)
                .map(|text| format!("warning: {text}."))
                .collect();
            warnings.iter().for_each(|warning| self.comment(warning));
        }
        for remark in &origin.remarks {
            self.comment(&format!("{remark}."));
        }
    }

    fn uplinks(&mut self, plan: &Plan) {
        let topology = self.topology;
        for (number, uplink) in topology.uplinks.iter().enumerate() {
            self.line("");
            let _ = writeln!(self.text, "[uplink.{}]", table_key(&uplink.name));
            if let Some(check) = &uplink.check {
                self.comment(&format!("check: {check}."));
            }
            self.text_key("interface", &uplink.interface);
            self.addresses(number, plan);
            if let Some((keep, why)) = &plan.keep {
                self.comment(&format!("{why}."));
                let keep: Vec<String> = keep.iter().map(|port| quoted(port)).collect();
                self.key("keep", &format!("[{}]", keep.join(", ")));
            }
            for (_, size, origin) in plan.mss_clamp.iter().filter(|(up, ..)| *up == number) {
                self.origin(origin);
                match size {
                    Some(size) => self.key("mss_clamp", &size.to_string()),
                    None => self.text_key("mss_clamp", "auto"),
                }
            }
        }
    }

    /// Without `addresses`, an uplink has those of its interface and no others.
    fn addresses(&mut self, number: usize, plan: &Plan) {
        let own = &self.topology.uplinks[number].addresses;
        let of_forwards = plan
            .forwards
            .iter()
            .filter(|forward| forward.uplink == number);
        let mut more: Vec<IpAddr> = of_forwards.filter_map(|forward| forward.address).collect();
        more.sort();
        more.dedup();
        let is_pool = |address: &IpAddr| {
            let pools = plan.snats.iter().filter(|snat| snat.uplink == number);
            let mut pools = pools.filter_map(|snat| snat.to);
            pools.any(|(first, last)| (first..=last).contains(address))
        };
        more.retain(|address| !own.contains(address) && !is_pool(address));
        if more.is_empty() {
            return;
        }
        let texts: Vec<String> = more
            .iter()
            .map(|address| quoted(&address.to_string()))
            .collect();
        let texts = texts.join(", ");
        if own.is_empty() {
            self.comment(&format!(
                "check: forwards name {texts}. If the interface does not have them, write its own \
                 and these as addresses = [\"its own\", {texts}]."
            ));
            return;
        }
        self.comment(&format!(
            "The interface does not have {texts}, which forwards name."
        ));
        let own: Vec<String> = own
            .iter()
            .map(|address| quoted(&address.to_string()))
            .collect();
        let own = own.join(", ");
        self.key("addresses", &format!("[{own}, {texts}]"));
    }

    fn networks(&mut self, plan: &Plan) {
        let topology = self.topology;
        for (number, network) in topology.networks.iter().enumerate() {
            self.line("");
            let _ = writeln!(self.text, "[network.{}]", table_key(&network.name));
            if let Some(check) = network.check_interface {
                self.comment(&format!("check: {check}."));
            }
            self.text_key("interface", &network.interface);
            if let Some(check) = network.check_address {
                self.comment(&format!("check: {check}."));
            }
            self.text_key("address", &network.address.to_string());
            let is_public = network.address.addr().is_ipv6() && !is_unique_local(&network.address);
            if is_public && plan.defaults.drops.is_none() {
                self.comment(OPEN);
                self.text_key("inbound", "accept");
            }
            self.defaults(number, plan);
        }
        for (prefix, why) in &topology.homeless {
            self.line("");
            self.comment(&format!(
                "check: guests in {prefix} have no [network]: {why}."
            ));
        }
    }

    /// The default policy of a network's flows.
    fn defaults(&mut self, network: usize, plan: &Plan) {
        if let Some((line, text)) = &plan.defaults.drops {
            self.line(&format!("# line {line}: {}", printable(text)));
            self.text_key("policy", "drop");
        }
        match plan.defaults.hosts.get(network) {
            Some(Some(services)) => {
                self.origin(&services.origin);
                let words: Vec<String> = services.words.iter().map(|word| quoted(word)).collect();
                self.key("host", &format!("[{}]", words.join(", ")));
            }
            // (With a policy of drop it would be less.)
            _ if plan.defaults.drops.is_some() => self.text_key("host", "all"),
            _ => {}
        }
    }

    fn policies(&mut self, plan: &Plan) {
        if !plan.defaults.implied.rules.is_empty() {
            self.line("");
            self.origin(&plan.defaults.implied);
        }
        for policy in &plan.policies {
            self.line("");
            self.origin(&policy.origin);
            self.line("[[policy]]");
            self.text_key("name", &policy.name);
            self.texts("from", &policy.from);
            self.texts("to", &policy.to);
            let protocols = policy.protocols.iter().map(|one| (*one).to_owned());
            self.texts("protocol", &protocols.collect::<Vec<_>>());
            if !policy.ports.is_empty() {
                self.key("ports", &ranges(&policy.ports));
            }
            self.text_key("action", if policy.is_accept { "accept" } else { "drop" });
        }
    }

    /// A key whose value is one text, or a list; nothing if there is none.
    fn texts(&mut self, key: &str, texts: &[String]) {
        match texts {
            [] => {}
            [one] => self.text_key(key, one),
            several => {
                let several: Vec<String> = several.iter().map(|text| quoted(text)).collect();
                self.key(key, &format!("[{}]", several.join(", ")));
            }
        }
    }

    fn snats(&mut self, plan: &Plan) {
        for snat in &plan.snats {
            self.line("");
            self.origin(&snat.origin);
            self.line("[[snat]]");
            self.text_key("name", &snat.name);
            self.snat(snat);
        }
    }

    fn snat(&mut self, snat: &Snat) {
        match snat.source {
            Source::Network(network) => {
                let name = self.topology.networks[network].name.clone();
                self.text_key("network", &name);
            }
            Source::Prefix(prefix) => self.text_key("source", &prefix.to_string()),
        }
        let uplink = self.topology.uplinks[snat.uplink].name.clone();
        self.text_key("uplink", &uplink);
        match snat.to {
            None => self.text_key("to", "masquerade"),
            Some((first, last)) if first == last => self.text_key("to", &first.to_string()),
            Some((first, last)) => self.text_key("to", &format!("{first}-{last}")),
        }
        if let Some(ports) = snat.ports {
            self.key("ports", &range(ports));
        }
        if !snat.exclude.is_empty() {
            let prefixes: Vec<String> = snat.exclude.iter().map(IpNet::to_string).collect();
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| quoted(prefix)).collect();
            self.key("exclude", &format!("[{}]", prefixes.join(", ")));
        }
    }

    fn forwards(&mut self, plan: &Plan) {
        for forward in &plan.forwards {
            self.line("");
            self.origin(&forward.origin);
            self.line("[[forward]]");
            self.text_key("name", &forward.name);
            let uplink = self.topology.uplinks[forward.uplink].name.clone();
            self.text_key("uplink", &uplink);
            let protocols: Vec<String> = forward.protocols.iter().map(|p| quoted(p)).collect();
            match &protocols[..] {
                [one] => self.key("protocol", one),
                several => self.key("protocol", &format!("[{}]", several.join(", "))),
            }
            if let Some(address) = forward.address {
                self.text_key("address", &address.to_string());
            }
            if !forward.ports.is_empty() {
                self.key("ports", &ranges(&forward.ports));
            }
            self.text_key("to", &forward.to.to_string());
            if !forward.to_ports.is_empty() {
                self.key("to_ports", &ranges(&forward.to_ports));
            }
            self.key("hairpin", &forward.hairpin.to_string());
            // (What it is by default depends on whether there are ports.)
            if forward.local || !forward.ports.is_empty() {
                self.key("local", &forward.local.to_string());
            }
        }
    }

    fn nats(&mut self, plan: &Plan) {
        for nat in &plan.nats {
            self.line("");
            self.origin(&nat.origin);
            self.line("[[nat]]");
            self.text_key("name", &nat.name);
            let uplink = self.topology.uplinks[nat.uplink].name.clone();
            self.text_key("uplink", &uplink);
            self.text_key("address", &short(&nat.address));
            self.text_key("to", &short(&nat.to));
            self.key("hairpin", &nat.hairpin.to_string());
        }
    }

    fn untranslated(&mut self) {
        let mut left: Vec<_> = self
            .findings
            .list
            .iter()
            .filter(|finding| finding.kind == Kind::Untranslated)
            .collect();
        left.sort_by_key(|finding| finding.line);
        if left.is_empty() {
            return;
        }
        self.line("");
        self.comment("Not expressed:");
        for finding in left {
            let line = format!("# line {}: {}", finding.line, finding.text);
            self.line(&line);
            self.comment(&format!("  {}.", finding.reason));
        }
    }
}

/// A prefix, or the address that it is.
fn short(prefix: &IpNet) -> String {
    match prefix.prefix_len() == prefix.max_prefix_len() {
        true => prefix.addr().to_string(),
        false => prefix.to_string(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A name in the head of a table.
fn table_key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.chars().all(is_bare) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

fn range((first, last): PortRange) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("\"{first}-{last}\"")
    }
}

fn ranges(ports: &[PortRange]) -> String {
    match ports {
        [one] => range(*one),
        several => {
            let several: Vec<String> = several.iter().map(|ports| range(*ports)).collect();
            format!("[{}]", several.join(", "))
        }
    }
}
