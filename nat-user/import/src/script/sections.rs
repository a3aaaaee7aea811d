//! Lines of `/etc/network/interfaces`, of wg-quick's files and of units: addresses, and the keys
//! whose values are commands.

use ipnet::{IpNet, Ipv4Net};

use super::{
    commands::{INCLUDES, UNDOES},
    reader::Reader,
};
use crate::{dump::Place, shell::first_word};

impl Reader {
    /// A line of another file than one of iptables-save.
    pub(super) fn other(&mut self, number: usize, line: &str) {
        if self.opens_section(line) {
            self.section = Some(line.trim_matches(['[', ']']).to_owned());
            return;
        }
        if let Some((key, value)) = line.split_once('=')
            && self.key(number, line, key.trim(), value.trim())
        {
            return;
        }
        if self.is_interfaces && self.stanza(number, line) {
            return;
        }
        self.script(number, line, line);
    }

    fn opens_section(&self, line: &str) -> bool {
        line.starts_with('[') && line.ends_with(']') && !line.contains([':', ' '])
    }

    /// A key of a wg-quick file or of a unit; false if it is neither.
    fn key(&mut self, number: usize, line: &str, key: &str, value: &str) -> bool {
        match key {
            "PreUp" | "PostUp" | "ExecStartPre" | "ExecStart" | "ExecStartPost" => {
                let value = value.trim_start_matches(['-', '+', '!', '@', ':']);
                let value = match &self.own_name {
                    Some(name) => value.replace("%i", name),
                    None => value.replace("%i", "${%i}"),
                };
                self.script(number, line, &value);
            }
            "PreDown" | "PostDown" | "ExecStop" | "ExecStopPost" => {
                self.undone(number, line);
            }
            "Address" if self.section.as_deref() == Some("Interface") => {
                let name = self.own_name.clone().unwrap_or_else(|| "wg0".to_owned());
                let nets = value
                    .split(',')
                    .filter_map(|net| net.trim().parse::<IpNet>().ok());
                let nets = nets.map(|net| (name.clone(), net));
                self.dump.addresses.extend(nets);
                self.dump.spent.entry(line);
            }
            _ => return self.section.is_some() && !key.contains(char::is_whitespace),
        }
        true
    }

    fn undone(&mut self, number: usize, line: &str) {
        let place = Place::at(number, line);
        self.dump.put_aside(place, UNDOES);
    }

    /// A line of `/etc/network/interfaces`; false if it may be one of a script.
    fn stanza(&mut self, number: usize, line: &str) -> bool {
        let (word, rest) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(word, rest)| (word, rest.trim()));
        match word {
            "iface" => {
                let name = first_word(rest).to_owned();
                self.variables.set("IFACE", Some(&name));
                self.interface = Some(name);
                self.address = None;
            }
            "up" | "post-up" | "pre-up" => self.script(number, line, rest),
            "down" | "post-down" | "pre-down" => self.undone(number, line),
            "address" | "netmask" => self.address(rest),
            "gateway" => {
                let interface = self.interface.clone();
                self.dump.default_route = self.dump.default_route.take().or(interface);
            }
            "source" | "source-directory" => {
                let place = Place::at(number, line);
                self.dump.put_aside(place, INCLUDES);
            }
            "iptables" | "sudo" => return false,
            word => return !word.contains('/'),
        }
        true
    }

    fn address(&mut self, text: &str) {
        let net = match (text.parse::<Ipv4Net>(), self.address) {
            (Ok(net), _) => Some(net),
            (Err(_), None) => {
                self.address = text.parse().ok();
                None
            }
            (Err(_), Some(address)) => match (text.parse(), text.parse()) {
                (Ok(length), _) => Ipv4Net::new(address, length).ok(),
                (_, Ok(mask)) => Ipv4Net::with_netmask(address, mask).ok(),
                _ => None,
            },
        };
        if let (Some(net), Some(interface)) = (net, &self.interface) {
            self.dump.addresses.push((interface.clone(), net.into()));
            self.dump.spent.entry(text);
            self.address = None;
        }
    }
}
