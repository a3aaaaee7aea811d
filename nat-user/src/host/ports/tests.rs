use std::path::Path;

use nat_sys::testing::{in_namespace, ip};

use super::*;

const CONFIG: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"
"#;

const DMZ: &str = r#"
[network.dmz]
interface = "vmbr2"
address = "172.22.162.254/24"
isolated = true
"#;

fn parsed(text: &str) -> Config {
    let loaded = nat_config::parse(text, Path::new("n.toml"));
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

/// The bridges of both networks and a guest's interface.
struct Host {
    netlink: Netlink,
    config: Config,
    run_dir: tempfile::TempDir,
}

impl Host {
    fn new(config: &str) -> Self {
        for bridge in ["vmbr0", "vmbr1", "vmbr2"] {
            ip(&format!("link add {bridge} type bridge"));
            ip(&format!("link set {bridge} up"));
        }
        ip("link add tap0 type veth peer name guest0");
        Self {
            netlink: Netlink::connect().unwrap(),
            config: parsed(config),
            run_dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn add(&self, network: &str, port: &str) -> Result<()> {
        let network = choose(&self.config, Some(network)).unwrap();
        add(
            &self.netlink,
            &self.config,
            network,
            port,
            self.run_dir.path(),
        )
        .await
    }

    async fn refused(&self, network: &str, port: &str) -> String {
        format!("{:#}", self.add(network, port).await.unwrap_err())
    }

    async fn link(&self, name: &str) -> Link {
        self.netlink.link(name).await.unwrap().expect(name)
    }

    /// The bridge that tap0 is a port of, whether it is up, and whether it is isolated.
    async fn tap0(&self) -> (Option<String>, bool, bool) {
        let link = self.link("tap0").await;
        let master = match link.master {
            Some(index) => self.netlink.link_at(index).await.unwrap(),
            None => None,
        };
        let is_isolated = link.port.is_some_and(|port| port.isolated);
        (master.map(|master| master.name), link.up, is_isolated)
    }
}

#[test]
fn the_network_is_the_named_one_or_the_only_one() {
    let (one, two) = (parsed(CONFIG), parsed(&(CONFIG.to_owned() + DMZ)));
    let chosen = |config, name| choose(config, name).map(|network| network.name.clone());
    let refused = |config, name| chosen(config, name).unwrap_err().to_string();
    assert_eq!(chosen(&one, None).unwrap(), "lan");
    assert_eq!(chosen(&two, Some("dmz")).unwrap(), "dmz");
    assert_eq!(
        refused(&two, None),
        "there is more than one network; say which by --network or NATBPF_NETWORK: lan, dmz"
    );
    assert_eq!(
        refused(&one, Some("dmz")),
        "no network is called `dmz`; there are: lan"
    );
    let none = parsed("[uplink.wan]\ninterface = \"vmbr0\"\n");
    let refused = refused(&none, Some("lan"));
    assert!(refused.contains("no [network.NAME]"), "{refused}");
}

#[test]
fn a_port_is_attached_and_taken_away_as_often_as_one_likes() {
    in_namespace(async || {
        let host = Host::new(CONFIG);
        for _ in 0..2 {
            host.add("lan", "tap0").await.unwrap();
            let expected = (Some("vmbr1".to_owned()), true, false);
            assert_eq!(host.tap0().await, expected);
        }
        for _ in 0..2 {
            let deleted = delete(&host.netlink, &host.config, None, "tap0").await;
            deleted.unwrap();
            assert_eq!(host.tap0().await, (None, true, false));
        }
        ip("link del tap0");
        let deleted = delete(&host.netlink, &host.config, None, "tap0").await;
        deleted.unwrap();
        assert_eq!(
            host.refused("lan", "tap0").await,
            "there is no interface tap0; create it, or name another"
        );
    });
}

#[test]
fn a_port_moves_between_networks_and_is_isolated_where_they_want_it() {
    in_namespace(async || {
        let host = Host::new(&(CONFIG.to_owned() + DMZ));
        let at = |bridge: &str, isolated| (Some(bridge.to_owned()), true, isolated);
        host.add("lan", "tap0").await.unwrap();
        assert_eq!(host.tap0().await, at("vmbr1", false));
        host.add("dmz", "tap0").await.unwrap();
        assert_eq!(host.tap0().await, at("vmbr2", true));
        // It is not a port of that bridge.
        let lan = choose(&host.config, Some("lan")).unwrap();
        let deleted = delete(&host.netlink, &host.config, Some(lan), "tap0").await;
        deleted.unwrap();
        assert_eq!(host.tap0().await, at("vmbr2", true));
        host.add("lan", "tap0").await.unwrap();
        assert_eq!(host.tap0().await, at("vmbr1", false));
    });
}

#[test]
fn interfaces_that_are_not_guests_are_refused_and_unchanged() {
    in_namespace(async || {
        let host = Host::new(CONFIG);
        assert_eq!(
            host.refused("lan", "vmbr0").await,
            "vmbr0 is the interface of uplink wan; name a guest's interface"
        );
        ip("link set tap0 master vmbr0");
        let expected = "tap0 is a port of vmbr0; release it first: ip link set tap0 nomaster";
        assert_eq!(host.refused("lan", "tap0").await, expected);
        let deleted = delete(&host.netlink, &host.config, None, "tap0").await;
        deleted.unwrap();
        assert_eq!(host.tap0().await, (Some("vmbr0".to_owned()), false, false));
    });
}

#[test]
fn a_missing_bridge_is_created_and_recorded() {
    in_namespace(async || {
        let host = Host::new(CONFIG);
        ip("link del vmbr1");
        let refused = host.refused("lan", "tap0").await;
        assert_eq!(
            refused,
            "there is no bridge vmbr1 of network lan; create it, or set create = true"
        );
        let host = Host {
            config: parsed(&format!("{CONFIG}create = true\n")),
            ..host
        };
        host.add("lan", "tap0").await.unwrap();
        assert_eq!(host.tap0().await, (Some("vmbr1".to_owned()), true, false));
        let mut journal = Journal::open(host.run_dir.path()).unwrap();
        setup::undo(&host.netlink, &mut journal).await.unwrap();
        assert_eq!(host.netlink.link("vmbr1").await.unwrap(), None);
        assert_eq!(host.tap0().await, (None, true, false));
    });
}

#[test]
fn a_bridge_that_a_daemon_makes_is_waited_for() {
    in_namespace(async || {
        let host = Host::new(&format!("{CONFIG}create = true\n"));
        ip("link del vmbr1");
        let daemon = state::lock(host.run_dir.path()).unwrap();
        let (added, ()) = tokio::join!(host.add("lan", "tap0"), async {
            sleep(2 * PAUSE).await;
            ip("link add vmbr1 type bridge");
        });
        added.unwrap();
        drop(daemon);
        assert_eq!(host.tap0().await, (Some("vmbr1".to_owned()), true, false));
        let journal = Journal::open(host.run_dir.path()).unwrap();
        assert_eq!(journal.changes(), []);
    });
}

#[test]
fn an_interface_that_disappears_is_reported() {
    in_namespace(async || {
        let host = Host::new(CONFIG);
        let (tap0, bridge) = (host.link("tap0").await, host.link("vmbr1").await);
        ip("link del tap0");
        let error = of(&tap0, host.netlink.attach(&tap0, &bridge).await).unwrap_err();
        assert_eq!(error.to_string(), "interface tap0 has vanished meanwhile");
    });
}
