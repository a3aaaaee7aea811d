//! The kernel's own NAT, set up from a configuration of natbpf: an oracle for the tests.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use lab::Host;
use toml::{Table, Value};

/// nftables on a host of the lab, with the rules of a natbpf configuration. What the lab's
/// namespaces hold goes with them, so nothing is undone.
#[derive(Debug)]
pub struct KernelNat {
    /// What nft was told.
    pub ruleset: String,
}

impl KernelNat {
    pub(crate) fn start(host: &Host, config: &str) -> Result<Self> {
        let config: Table = config.parse().context("configuration")?;
        let ruleset = Ruleset {
            host,
            config: &config,
        }
        .write()?;
        host.set_sysctl("net.ipv4.ip_forward", "1")?;
        host.run_with_input(["nft", "-f", "-"], ruleset.as_bytes())?
            .expect_ok()
            .with_context(|| ruleset.clone())?;
        Ok(Self { ruleset })
    }
}

struct Ruleset<'a> {
    host: &'a Host,
    config: &'a Table,
}

impl Ruleset<'_> {
    fn write(&self) -> Result<String> {
        let (mut before, mut after) = (String::new(), String::new());
        for forward in self.rules("forward") {
            self.forward(forward, &mut before)?;
        }
        for snat in self.rules("snat") {
            self.snat(snat, &mut after)?;
        }
        let networks = self.config.get("network").and_then(Value::as_table);
        for network in networks.into_iter().flat_map(Table::values) {
            let prefix = text(network, "address")?;
            writeln!(
                after,
                "ip saddr {prefix} ip daddr {prefix} ct status dnat masquerade"
            )?;
        }
        Ok(format!(
            "table ip natbpf_oracle {{\n\
             chain before {{\ntype nat hook prerouting priority dstnat;\n{before}}}\n\
             chain after {{\ntype nat hook postrouting priority srcnat;\n{after}}}\n}}\n"
        ))
    }

    fn rules(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.config
            .get(kind)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    }

    fn forward(&self, rule: &Value, out: &mut String) -> Result<()> {
        let addresses = match rule.get("address").and_then(Value::as_str) {
            Some(one) => vec![one.to_owned()],
            None => self.addresses_of(text(rule, "uplink")?)?,
        };
        let to = text(rule, "to")?;
        let ports = all_ports(rule.get("ports"))?;
        let to_ports = match rule.get("to_ports") {
            None => ports.clone(),
            some => all_ports(some)?,
        };
        for address in &addresses {
            for protocol in texts(rule.get("protocol"))? {
                match protocol.as_str() {
                    "all" => writeln!(out, "ip daddr {address} dnat to {to}")?,
                    "icmp" => {
                        writeln!(
                            out,
                            "ip daddr {address} icmp type echo-request dnat to {to}"
                        )?;
                    }
                    _ => {
                        for (n, port) in ports.iter().enumerate() {
                            let target = to_ports[if to_ports.len() == 1 { 0 } else { n }];
                            let matches = format!("ip daddr {address} {protocol} dport {port}");
                            writeln!(out, "{matches} dnat to {to}:{target}")?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn snat(&self, rule: &Value, out: &mut String) -> Result<()> {
        let uplink = self.interface_of(text(rule, "uplink")?)?;
        let source = match rule.get("source").and_then(Value::as_str) {
            Some(source) => source,
            None => text(self.lookup("network", text(rule, "network")?)?, "address")?,
        };
        write!(out, "ip saddr {source} oifname {uplink} ")?;
        if let Some(exclude) = rule.get("exclude") {
            write!(
                out,
                "ip daddr != {{ {} }} ",
                texts(Some(exclude))?.join(", ")
            )?;
        }
        match text(rule, "to")? {
            "masquerade" => writeln!(out, "masquerade")?,
            to => writeln!(out, "snat to {to}")?,
        }
        Ok(())
    }

    fn interface_of(&self, uplink: &str) -> Result<&str> {
        text(self.lookup("uplink", uplink)?, "interface")
    }

    fn addresses_of(&self, uplink: &str) -> Result<Vec<String>> {
        let interface = self.interface_of(uplink)?;
        let said = self
            .host
            .check(["ip", "-o", "-4", "address", "show", "dev", interface])?;
        // 2: eth0    inet 192.0.2.1/24 scope global eth0 …
        let words = said
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        Ok(words
            .filter_map(|word| word.split('/').next())
            .map(str::to_owned)
            .collect())
    }

    fn lookup(&self, kind: &str, name: &str) -> Result<&Value> {
        let found = self.config.get(kind).and_then(|table| table.get(name));
        found.with_context(|| format!("{kind}.{name} is not in the configuration"))
    }
}

fn text<'a>(rule: &'a Value, key: &str) -> Result<&'a str> {
    rule.get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("{key} is missing"))
}

fn texts(value: Option<&Value>) -> Result<Vec<String>> {
    match value {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => many
            .iter()
            .map(|one| one.as_str().map(str::to_owned).context("not a text"))
            .collect(),
        other => bail!("{other:?} is no text and no list of texts"),
    }
}

fn all_ports(value: Option<&Value>) -> Result<Vec<u16>> {
    Ok(match value {
        None => Vec::new(),
        Some(Value::Integer(one)) => vec![u16::try_from(*one)?],
        Some(Value::String(range)) => match range.split_once('-') {
            Some((first, last)) => (first.parse()?..=last.parse()?).collect(),
            None => vec![range.parse()?],
        },
        Some(Value::Array(parts)) => {
            let parts: Result<Vec<_>> = parts.iter().map(|part| all_ports(Some(part))).collect();
            parts?.concat()
        }
        Some(other) => bail!("{other} is no port"),
    })
}
