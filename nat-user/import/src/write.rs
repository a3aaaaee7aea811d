//! The configuration as text: each table below its source lines.

use std::{fmt::Write as _, net::IpAddr};

use ipnet::IpNet;

use super::{
    family::{is_unique_local, short},
    findings::{Finding, Kind, printable},
    part::Part,
    plan::{Origin, Plan, PortRange, Snat, Source},
    topology::Network,
};

/// The whole configuration.
pub(super) fn configuration(parts: &[Part<'_>]) -> String {
    let mut writer = Writer {
        text: String::new(),
        parts,
        part: &parts[0],
    };
    writer.head();
    writer.uplinks();
    writer.networks();
    writer.each(|writer, plan| writer.snats(plan));
    writer.each(|writer, plan| writer.forwards(plan));
    writer.each(|writer, plan| writer.nats(plan));
    writer.each(|writer, plan| writer.policies(plan));
    writer.untranslated();
    writer.text
}

struct Writer<'a, 'd> {
    text: String,
    parts: &'a [Part<'d>],
    /// The one at hand.
    part: &'a Part<'d>,
}

const OPEN: &str = "What outside opens to guests' own addresses is left to netfilter's FORWARD, \
    as before. Without this line natbpf drops it unless a [[policy]] accepts it.";

/// Comments are as wide as this; rules stay in one line, so that they can be searched for.
const WIDTH: usize = 96;

impl Writer<'_, '_> {
    /// Writes something of each part.
    fn each(&mut self, write: impl Fn(&mut Self, &Plan)) {
        let parts = self.parts;
        for part in parts {
            self.part = part;
            write(self, &part.plan);
        }
    }

    /// A line of the file at hand, with the file's name if there are several.
    fn written(&mut self, line: usize, text: &str) {
        let file = match self.parts.len() {
            1 => String::new(),
            _ => format!("{} ", printable(&self.part.file)),
        };
        self.line(&format!("# {file}line {line}: {text}"));
    }

    fn head(&mut self) {
        let files: Vec<String> = self
            .parts
            .iter()
            .map(|part| printable(&part.file))
            .collect();
        let file = files.join(" and ");
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
        rules.sort_by_key(|rule| self.part.dump.rules[*rule].line);
        for rule in rules {
            let written = &self.part.dump.rules[rule];
            self.written(written.line, &printable(&written.text));
            let warnings: Vec<String> = self
                .part
                .findings
                .warnings_of(rule)
                .map(|text| format!("warning: {text}."))
                .collect();
            warnings.iter().for_each(|warning| self.comment(warning));
        }
        for line in &origin.elsewhere {
            self.line(line);
        }
        for remark in &origin.remarks {
            self.comment(&format!("{remark}."));
        }
    }

    /// An uplink of several files is written once.
    fn uplinks(&mut self) {
        for uplink in distinct(
            self.parts,
            |part| &part.topology.uplinks,
            |up| &up.interface,
        ) {
            self.line("");
            let _ = writeln!(self.text, "[uplink.{}]", table_key(&uplink.name));
            if let Some(check) = &uplink.check {
                self.comment(&format!("check: {check}."));
            }
            self.text_key("interface", &uplink.interface);
            self.addresses(&uplink.interface);
            let keep = self.parts.iter().find_map(|part| part.plan.keep.as_ref());
            if let Some((keep, why)) = keep {
                self.comment(&format!("{why}."));
                let keep: Vec<String> = keep.iter().map(|port| quoted(port)).collect();
                self.key("keep", &format!("[{}]", keep.join(", ")));
            }
            self.mss_clamp(&uplink.interface);
        }
    }

    fn mss_clamp(&mut self, interface: &str) {
        let mut size = None;
        let parts = self.parts;
        for part in parts {
            self.part = part;
            let uplinks = &part.topology.uplinks;
            let clamps = part.plan.mss_clamp.iter();
            for (_, clamp, origin) in clamps.filter(|(up, ..)| uplinks[*up].interface == interface)
            {
                self.origin(origin);
                size.get_or_insert(*clamp);
            }
        }
        match size {
            Some(Some(size)) => self.key("mss_clamp", &size.to_string()),
            Some(None) => self.text_key("mss_clamp", "auto"),
            None => {}
        }
    }

    /// Without `addresses`, an uplink has those of its interface and no others, of each family.
    fn addresses(&mut self, interface: &str) {
        let quoted = |address: &IpAddr| quoted(&address.to_string());
        let mut key = Vec::new();
        for part in self.parts {
            let Some((own, more)) = part.addresses(interface) else {
                continue;
            };
            let texts: Vec<String> = more.iter().map(quoted).collect();
            let texts = texts.join(", ");
            if own.is_empty() {
                self.comment(&format!(
                    "check: forwards name {texts}. If the interface does not have them, write its \
                     own and these as addresses = [\"its own\", {texts}]."
                ));
                continue;
            }
            self.comment(&format!(
                "The interface does not have {texts}, which forwards name."
            ));
            key.extend(own.iter().map(quoted));
            key.push(texts);
        }
        if !key.is_empty() {
            self.key("addresses", &format!("[{}]", key.join(", ")));
        }
    }

    /// A network of several files is written once, with the addresses of all.
    fn networks(&mut self) {
        let parts = self.parts;
        for network in distinct(parts, |part| &part.topology.networks, |net| &net.interface) {
            self.line("");
            let _ = writeln!(self.text, "[network.{}]", table_key(&network.name));
            if let Some(check) = network.check_interface {
                self.comment(&format!("check: {check}."));
            }
            self.text_key("interface", &network.interface);
            let same = |part: &&Part<'_>| part.network(&network.interface).is_some();
            let holders: Vec<&Part<'_>> = parts.iter().filter(same).collect();
            let here = holders
                .iter()
                .filter_map(|part| part.network(&network.interface));
            let here: Vec<(usize, &Network)> = here.collect();
            let mut checks: Vec<&str> = here
                .iter()
                .filter_map(|(_, net)| net.check_address)
                .collect();
            checks.dedup();
            for check in checks {
                self.comment(&format!("check: {check}."));
            }
            let addresses: Vec<String> = here
                .iter()
                .map(|(_, net)| net.address.to_string())
                .collect();
            self.texts("address", &addresses);
            for (part, (number, network)) in holders.iter().zip(&here) {
                let is_public =
                    network.address.addr().is_ipv6() && !is_unique_local(&network.address);
                if is_public && part.plan.defaults.drops.is_none() {
                    self.comment(OPEN);
                    self.text_key("inbound", "accept");
                }
                self.part = part;
                self.defaults(*number, &part.plan);
            }
        }
        for (prefix, why) in parts.iter().flat_map(|part| &part.topology.homeless) {
            self.line("");
            self.comment(&format!(
                "check: guests in {prefix} have no [network]: {why}."
            ));
        }
    }

    /// The default policy of a network's flows.
    fn defaults(&mut self, network: usize, plan: &Plan) {
        if let Some((line, text)) = &plan.defaults.drops {
            self.written(*line, &printable(text));
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
                let name = self.part.topology.networks[network].name.clone();
                self.text_key("network", &name);
            }
            Source::Prefix(prefix) => self.text_key("source", &prefix.to_string()),
        }
        let uplink = self.part.topology.uplinks[snat.uplink].name.clone();
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
            let uplink = self.part.topology.uplinks[forward.uplink].name.clone();
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
            let uplink = self.part.topology.uplinks[nat.uplink].name.clone();
            self.text_key("uplink", &uplink);
            self.text_key("address", &short(&nat.address));
            self.text_key("to", &short(&nat.to));
            self.key("hairpin", &nat.hairpin.to_string());
        }
    }

    fn untranslated(&mut self) {
        let is_left = |finding: &&Finding| finding.kind == Kind::Untranslated;
        let parts = self.parts;
        if !parts
            .iter()
            .any(|part| part.findings.list.iter().any(|finding| is_left(&finding)))
        {
            return;
        }
        self.line("");
        self.comment("Not expressed:");
        for part in parts {
            self.part = part;
            let mut left: Vec<_> = part.findings.list.iter().filter(is_left).collect();
            left.sort_by_key(|finding| finding.line);
            for finding in left {
                self.written(finding.line, &finding.text);
                self.comment(&format!("  {}.", finding.reason));
            }
        }
    }
}

/// The items of all parts, of each interface the first.
fn distinct<'p, T>(
    parts: &'p [Part<'_>],
    items: impl Fn(&'p Part<'_>) -> &'p Vec<T>,
    interface: impl Fn(&T) -> &String,
) -> Vec<&'p T> {
    let mut all: Vec<&T> = Vec::new();
    for item in parts.iter().flat_map(items) {
        if !all.iter().any(|known| interface(known) == interface(item)) {
            all.push(item);
        }
    }
    all
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
