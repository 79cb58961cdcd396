//! The entries of `network.links`: which link, how it is made, its addresses and routes.

use super::List;
use crate::{
    Secret,
    read::{Read, Reader, Shape, Table, choice, object},
    tree::NodeId,
};

object! {
    /// One link.
    LinkSection by "name" | "select" {
        /// The kernel's name for it, or the one that a link that is made gets.
        name: String = "name", example("eth0");
        /// Picks it by what it is, where its name may change.
        select: SelectSection = "select";
        /// Makes the link: a network of its own on another link, told apart by a number (IEEE 802.1Q).
        vlan: VlanSection = "vlan", example("{parent: eth0, id: 100}");
        /// Makes the link: several links that act as one.
        bond: BondSection = "bond", example("{links: [eth0, eth1], mode: 802.3ad}");
        /// Makes the link: a switch made of software.
        bridge: BridgeSection = "bridge", example("{links: [eth2]}");
        /// Makes the link: one without a cable, for addresses that are always there.
        dummy: DummySection = "dummy", example("{}");
        /// Makes the link: an encrypted tunnel to peers (WireGuard). It carries IP alone, so it has fixed addresses and no DHCP; what goes through it is what `routes` and the networks of `addresses` say.
        wireguard: WireguardSection = "wireguard", example("{privateKey: yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=, listenPort: 51820}");
        /// Asks for an address.
        dhcp: DhcpSection = "dhcp";
        /// Fixed addresses, each with the length of its prefix.
        addresses: List<String> = "addresses", example("[10.1.0.5/24]");
        /// The largest packet, in bytes. Default: the one from DHCP, or else the driver's. One that is removed stays until the next reboot.
        mtu: u32 = "mtu", example("9000");
        /// Fixed routes.
        routes: List<RouteSection> = "routes", example("[{to: 0.0.0.0/0, via: 10.1.0.1}]");
    }
}

object! {
    /// Picks a link; every key that is there must match.
    SelectSection {
        /// Its permanent hardware address.
        mac: String = "mac", example("52:54:00:12:34:56");
        /// The kernel driver that serves it.
        driver: String = "driver", example("virtio_net");
    }
}

object! {
    /// A network of its own on another link. The link is made, and goes with its entry.
    VlanSection {
        /// The link that carries it, by name. One that has no entry of its own is only switched on.
        parent: String = "parent", required, example("eth0");
        /// Its number, 1 to 4094. No other VLAN of the parent has it.
        id: u32 = "id", required, example("100");
    }
}

object! {
    /// Several links that act as one. The link is made, and goes with its entry; another mode makes it anew.
    BondSection {
        /// The links that it is made of, by name. They have no addresses of their own, and its MTU.
        links: List<String> = "links", required, example("[eth0, eth1]");
        /// How they share the work. `active-backup`, `balance-tlb` and `balance-alb` ask nothing of the switch; the others need one that is set up for it. Default: active-backup.
        mode: BondModeWord = "mode";
        /// How often it looks whether they have carrier, in milliseconds. Default: 100.
        miimon: u32 = "miimon", example("100");
        /// With 802.3ad: how often the switch is asked to say that it is there, every 30 seconds or every second. Another one makes the bond anew. Default: slow.
        lacp_rate: LacpRateWord = "lacpRate", example("fast");
        /// With 802.3ad, balance-xor and balance-tlb: what of a packet says which link it takes. `layer3+4` spreads the connections of two machines too. Default: layer2.
        xmit_hash_policy: XmitHashPolicyWord = "xmitHashPolicy", example("layer3+4");
    }
}

choice! {
    /// How often the other end of a bond says that it is there.
    LacpRateWord {
        "slow" => Slow,
        "fast" => Fast,
    }
}

choice! {
    /// What of a packet says which link of a bond it takes.
    XmitHashPolicyWord {
        "layer2" => Layer2,
        "layer2+3" => Layer23,
        "layer3+4" => Layer34,
        "encap2+3" => Encap23,
        "encap3+4" => Encap34,
        "vlan+srcmac" => VlanSrcMac,
    }
}

choice! {
    /// How the links of a bond share the work.
    BondModeWord {
        "balance-rr" => BalanceRr,
        "active-backup" => ActiveBackup,
        "balance-xor" => BalanceXor,
        "broadcast" => Broadcast,
        "802.3ad" => Ieee8023Ad,
        "balance-tlb" => BalanceTlb,
        "balance-alb" => BalanceAlb,
    }
}

object! {
    /// A switch made of software. The link is made, and goes with its entry.
    BridgeSection {
        /// Its ports, by name; they have no addresses of their own. What others connect to it stays. Default: none.
        links: List<String> = "links", example("[eth2]");
        /// Finds loops between switches and breaks them (IEEE 802.1D); a port then waits half a minute before it works. Default: false.
        stp: bool = "stp";
    }
}

/// A link without a cable: nothing can be said of it.
#[derive(Debug)]
pub(crate) struct DummySection;

impl Read for DummySection {
    const SHAPE: &'static Shape = &Shape::Object(&Table {
        docs: "A link without a cable. It is made, and goes with its entry.",
        by: &[],
        fields: &[],
    });

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let Shape::Object(table) = Self::SHAPE else {
            return None;
        };
        reader.object(at, table).map(|_| DummySection)
    }
}

object! {
    /// An encrypted tunnel to peers. The link is made, and goes with its entry.
    WireguardSection {
        /// The key that the link is known by, as `wg genkey` prints it. Its public half is shown by `osctl get link`.
        private_key: Secret = "privateKey", required;
        /// The UDP port on which it hears its peers. Default: the kernel takes a free one. One that is removed stays until the next reboot.
        listen_port: u32 = "listenPort", example("51820");
        /// Marks the packets that the tunnel itself sends, for `network.rules`. Default: none.
        fw_mark: u32 = "fwMark", example("51820");
        /// Who is at the other ends. Default: nobody.
        peers: List<PeerSection> = "peers";
    }
}

object! {
    /// The other end of a tunnel.
    PeerSection by "publicKey" {
        /// The key that it is known by, as `wg pubkey` prints it.
        public_key: String = "publicKey", required, example("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=");
        /// One more secret that only the two ends know, as `wg genpsk` prints it. Default: none.
        preshared_key: Secret = "presharedKey";
        /// Where it is: an address and a UDP port. One that moves is followed; one that falls silent is looked for here again. Default: it comes by itself.
        endpoint: String = "endpoint", example("192.0.2.7:51820");
        /// The networks behind it: what is sent to it, and what is taken from it. A route is not made of them.
        allowed_ips: List<String> = "allowedIPs", required, example("[10.8.0.2/32, 10.20.0.0/16]");
        /// Every how many seconds it hears something even if there is nothing to say, which keeps the ways through NAT open: 1 to 65535. Default: never.
        persistent_keepalive: u32 = "persistentKeepalive", example("25");
    }
}

object! {
    /// What to ask for by DHCP.
    DhcpSection {
        /// Asks for an IPv4 address. Default: false.
        v4: bool = "v4";
        /// Asks for an IPv6 address by DHCPv6. The default route comes from router advertisements, which the link then hears even while the machine forwards packets, as it does for pods. Default: false.
        v6: bool = "v6";
        /// The metric of the lease's routes, and of the default route of IPv6; lower wins. Default: 1025, and one more for each link before it; 1024 for IPv6.
        route_metric: u32 = "routeMetric", example("2000");
        /// Takes the routes of the lease, the default route among them; with `v6` the default route that routers advertise. Default: true.
        use_routes: bool = "useRoutes";
        /// Takes the resolvers and domains of the leases, where `network` names none. Default: true.
        use_nameservers: bool = "useNameservers";
        /// Takes the name that the DHCPv4 server has for the machine, where `machine.hostname` is none. Default: true.
        use_hostname: bool = "useHostname";
    }
}

object! {
    /// One route.
    RouteSection by "to" {
        /// Where it leads: a network.
        to: String = "to", required, example("10.2.0.0/16");
        /// The gateway. Default: none, the network is on the link.
        via: String = "via", example("10.1.0.1");
        /// Lower wins. Default: 1024.
        metric: u32 = "metric";
        /// The table that it is in, for `network.rules` to lead to. Default: 254, the main one.
        table: u32 = "table", example("100");
    }
}
