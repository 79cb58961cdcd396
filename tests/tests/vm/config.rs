//! A config is applied through the API and is still there after a reboot.

use anyhow::Result;
use keelson_tests::{BOOT, Node};
use std::{fs, path::Path};

#[test]
fn a_config_is_applied_and_survives_a_reboot() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (empty, luks) = (folder.path().join("empty"), folder.path().join("luks"));
    fs::File::create(&empty)?.set_len(1 << 30)?;
    let foreign = [&b"LUKS\xba\xbe"[..], &[7; 4096]].concat();
    fs::write(&luks, &foreign)?;
    fs::File::options()
        .write(true)
        .open(&luks)?
        .set_len(256 << 20)?;
    let (mut node, fingerprint) = Node::waiting_with("config", |guest| {
        guest.disk(&empty, "spare-1").disk(&luks, "foreign-1")
    })?;
    let endpoint = node.vm.endpoint();
    let apply = [
        "apply-config",
        "--insecure",
        "--cert-fingerprint",
        &fingerprint,
        "--node",
        &endpoint,
        "-f",
        "machine.yaml",
    ];
    let planned = node.osctl.ok(apply.iter().chain(&["--dry-run"]))?;
    assert!(
        planned.contains("node-1"),
        "the dry run tells the steps: {planned}"
    );
    node.osctl.ok(apply)?;

    node.context("admin", "os:admin")?;
    node.healthy()?;
    let again = node
        .osctl
        .ok(["apply-config", "-f", "machine.yaml", "--dry-run"])?;
    assert!(
        !again.contains("set the host name"),
        "the second time there is nothing to do: {again}"
    );

    tried_configs_come_and_go(&node)?;
    volumes_are_made(&node)?;
    let staged = "machine: {hostname: node-2}";
    node.osctl.ok(["patch", "-p", staged, "--mode", "staged"])?;
    let config = node.osctl.ok(["get", "config"])?;
    assert!(config.contains("node-1"), "it counts already: {config}");

    let position = node.vm.console().position();
    node.vm.press_ctrl_alt_del()?;
    let console = node.vm.console();
    console.wait_after(position, "Ctrl-Alt-Del: rebooting", BOOT)?;
    console.wait_after(position, "EFI stub", BOOT)?;
    node.healthy()?;
    let config = node.osctl.ok(["get", "config"])?;
    assert!(config.contains("node-2"), "{config}");
    let names = node.osctl.ok(["get", "hostname"])?;
    assert!(names.contains("node-2"), "{names}");
    assert!(
        !config.contains("PRIVATE KEY"),
        "secrets are starred out: {config}"
    );

    volumes_are_there_again(&node)?;
    let position = node.vm.console().position();
    node.vm.press_power_button()?;
    node.vm.wait_for_exit(BOOT)?;
    let reason = "power off, asked for by a person at the machine";
    node.vm.console().wait_after(position, reason, BOOT)?;
    volumes_on_the_disks(&empty, &luks, &foreign)
}

/// Two volumes on an empty disk, and one on a disk that holds something.
fn volumes_are_made(node: &Node) -> Result<()> {
    let volumes = "storage: {volumes: [{name: longhorn, disk: {serial: spare-1}, size: 300Mi}, \
                   {name: local-path, disk: {serial: spare-*, transport: virtio}}, \
                   {name: refused, disk: {size: \"<= 256Mi\"}}, \
                   {name: absent, disk: {serial: nobodys}}]}";
    let dry = node.osctl.run(["patch", "-p", volumes, "--dry-run"])?;
    let told = dry.stdout + &dry.stderr;
    assert!(
        told.contains("make the partition KEELSON-longhorn on /dev/vdb"),
        "{told}"
    );
    assert!(told.contains("no disk matches; there are vdb"), "{told}");
    node.osctl.ok(["patch", "-p", volumes])?;
    for name in ["longhorn", "local-path"] {
        node.wait_for_ready("volume", name, BOOT)?;
    }
    let volume = |name: &str| -> Result<serde_json::Value> {
        let shown = node.osctl.ok(["get", "volume", name, "-o", "json"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        Ok(shown.get(0).unwrap_or(&shown).clone())
    };
    let longhorn = volume("longhorn")?;
    assert_eq!(longhorn["spec"]["device"], "/dev/vdb1", "{longhorn}");
    assert_eq!(longhorn["spec"]["size"], 300 << 20, "{longhorn}");
    assert_eq!(volume("local-path")?["spec"]["size"], 722 << 20);
    let refused = volume("refused")?;
    assert_eq!(refused["phase"], "failed", "{refused}");
    let why = refused["message"].as_str().unwrap_or_default();
    assert!(why.contains("/dev/vdc holds a LUKS container"), "{refused}");
    let absent = volume("absent")?;
    assert!(absent.to_string().contains("no disk matches"), "{absent}");
    node.wait_for_text("disk", "mounted at /var/mnt/", BOOT)?;

    // What is removed is unmounted, and stays on its disk.
    let fewer = "storage: {volumes: [{name: refused, $patch: delete}, \
                 {name: absent, $patch: delete}, {name: local-path, $patch: delete}]}";
    let told = node.osctl.ok(["patch", "-p", fewer])?;
    assert!(told.contains("unmount /var/mnt/local-path"), "{told}");
    node.wait_until_gone("volume", "local-path", BOOT)?;
    node.healthy()?;
    Ok(())
}

/// After a reboot the volume is mounted, and one that was removed can be had again.
fn volumes_are_there_again(node: &Node) -> Result<()> {
    node.wait_for_ready("volume", "longhorn", BOOT)?;
    let again = "storage: {volumes: [{name: local-path, disk: {serial: spare-1}, size: 100Mi}]}";
    let told = node.osctl.ok(["patch", "-p", again])?;
    assert!(!told.contains("format"), "{told}");
    node.wait_for_ready("volume", "local-path", BOOT)?;
    node.wait_for_text("volume", "a partition keeps its size", BOOT)?;
    Ok(())
}

/// Both file systems were unmounted in order, and the other disk is as it was.
fn volumes_on_the_disks(empty: &Path, luks: &Path, foreign: &[u8]) -> Result<()> {
    let disk = fs::read(empty)?;
    for start in [1, 301] {
        let superblock = &disk[(start << 20) + 1024..];
        assert_eq!(
            superblock[0x38..0x3a],
            [0x53, 0xef],
            "no ext4 at {start} MiB"
        );
        assert_eq!(
            superblock[0x3a], 1,
            "at {start} MiB: not unmounted in order"
        );
        assert_eq!(
            superblock[0x60] & 4,
            0,
            "at {start} MiB: the journal is in use"
        );
    }
    let disk = fs::read(luks)?;
    assert_eq!(disk[..foreign.len()], *foreign);
    assert!(disk[foreign.len()..].iter().all(|byte| *byte == 0));
    Ok(())
}

/// Rules, and two tunnels of one machine, each the other's peer: the keys are those of RFC 7748, section
/// 6.1.
fn tunnels_and_rules(node: &Node) -> Result<()> {
    let keys = [
        (
            "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        ),
        (
            "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=",
            "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        ),
    ];
    let link = |index: usize| {
        let ((private, _), (_, public)) = (keys[index], keys[1 - index]);
        format!(
            "{{name: wg{index}, addresses: [10.8.{index}.1/24], routes: [{{to: 10.18.{index}.0/24}}], \
             wireguard: {{privateKey: {private}, listenPort: 5182{index}, peers: [{{publicKey: {public}, \
             endpoint: \"10.0.2.15:5182{other}\", allowedIPs: [10.18.{index}.0/24], \
             persistentKeepalive: 5}}]}}}}",
            other = 1 - index
        )
    };
    let rules =
        "[{priority: 100, from: 10.8.0.0/24, table: 100}, {priority: 110, fwMark: 7, table: 254}]";
    let patch = format!(
        "network: {{links: [{}, {}], rules: {rules}}}",
        link(0),
        link(1)
    );
    node.osctl.ok(["patch", "-p", &patch])?;
    for (index, (private, public)) in keys.iter().enumerate() {
        let name = format!("wg{index}");
        node.wait_for_ready("link", &name, BOOT)?;
        let shown = node.osctl.ok(["get", "link", &name, "-o", "json"])?;
        assert!(
            shown.contains(public) && !shown.contains(private),
            "{shown}"
        );
    }
    for rule in ["100/ipv4", "110/ipv4", "110/ipv6"] {
        node.wait_for_ready("rule", rule, BOOT)?;
    }
    // Each hears the other: the keys fit, and the packets are the kernel's.
    node.wait_for_text("link", "lastHandshake", BOOT)?;
    Ok(())
}

/// A change that is kept, and one that cuts the machine off and undoes itself.
fn tried_configs_come_and_go(node: &Node) -> Result<()> {
    let good = "network: {hosts: {192.0.2.1: [registry.example]}}";
    let told = node
        .osctl
        .ok(["patch", "-p", good, "--mode", "try", "--yes"])?;
    assert!(told.contains("keeps it: config 2"), "{told}");
    // What the guest's network sends to it reaches nobody any more; or is let in no more.
    for cut_off in [
        "network: {links: [{name: eth0, dhcp: null, addresses: [192.0.2.5/24], routes: null}]}",
        "network: {firewall: {default: block, rules: \
         [{name: api, ports: [50000], from: [192.0.2.0/24]}]}}",
    ] {
        let words = [
            "patch",
            "-p",
            cut_off,
            "--mode",
            "try",
            "--try-for",
            "20s",
            "--yes",
        ];
        let output = node.osctl.run(words)?;
        assert!(
            output.code == 1 && output.stderr.contains("back on the stored"),
            "{output:?}"
        );
        node.healthy()?;
    }
    let open = "{network: {firewall: {default: block, nodes: [10.0.2.0/24]}}, machine: {kernel: \
                {modules: [{name: nf_conntrack, parameters: {hashsize: 32768}}]}, \
                watchdog: {timeout: 90s}}, \
                storage: {swap: {zram: {size: 64Mi}}}}";
    let told = node.osctl.ok(["patch", "-p", open])?;
    assert!(told.contains("make 64 MiB of swap in memory"), "{told}");
    node.healthy()?;
    node.wait_for_ready("firewall", "input", BOOT)?;
    for module in ["zram", "nf_conntrack"] {
        node.wait_for_ready("module", module, BOOT)?;
    }
    swap_comes_and_goes(node)?;
    let watchdog = node.osctl.ok(["get", "watchdog", "-o", "json"])?;
    let watchdog: serde_json::Value = serde_json::from_str(&watchdog)?;
    assert_eq!(watchdog[0]["spec"]["timeoutSeconds"], 90, "{watchdog}");
    assert_eq!(watchdog[0]["spec"]["panicsBeforeSeconds"], 15, "{watchdog}");
    let disks = node.osctl.ok(["get", "disks", "-o", "json"])?;
    let disks: serde_json::Value = serde_json::from_str(&disks)?;
    assert_eq!(disks[0]["name"], "vda", "{disks}");
    assert_eq!(disks[0]["spec"]["used"], "the system", "{disks}");
    assert_eq!(disks[0]["spec"]["transport"], "virtio", "{disks}");
    let made = "network: {links: [\
                {name: storage, vlan: {parent: eth0, id: 100}, addresses: [10.9.0.11/24]}, \
                {name: service, dummy: {}, addresses: [10.99.0.1/32]}, \
                {name: inner, bridge: {links: [bond0]}, addresses: [10.98.0.1/24]}, \
                {name: bond0, bond: {links: [spare]}}, {name: spare, dummy: {}}]}";
    node.osctl.ok(["patch", "-p", made])?;
    for link in ["storage", "service", "inner", "bond0"] {
        node.wait_for_ready("link", link, BOOT)?;
    }
    tunnels_and_rules(node)?;
    node.healthy()?;
    let addresses = node.osctl.ok(["get", "address"])?;
    for address in ["10.9.0.11", "10.99.0.1", "10.98.0.1"] {
        assert!(addresses.contains(address), "{addresses}");
    }
    let config = node.osctl.ok(["get", "config"])?;
    assert!(
        config.contains("registry.example")
            && !config.contains("192.0.2.5")
            && config.contains("10.0.2.0/24"),
        "{config}"
    );
    Ok(())
}

/// Swap of 64 MiB was asked for: it is made anew with another size, and removed.
fn swap_comes_and_goes(node: &Node) -> Result<()> {
    node.wait_for_ready("swap", "zram0", BOOT)?;
    let parameters = node.osctl.ok(["get", "sysctl", "vm.swappiness"])?;
    assert!(parameters.contains("100"), "{parameters}");
    let anew = "storage: {swap: {zram: {size: 48Mi, algorithm: lz4}}}";
    let told = node.osctl.ok(["patch", "-p", anew])?;
    assert!(told.contains("make zram0 anew: 48 MiB"), "{told}");
    // The kernel's own words, without the page of the header.
    for line in ["Adding 65532k swap on /dev/zram0", "Adding 49148k swap"] {
        node.wait_for_dmesg(line, BOOT)?;
    }
    let told = node.osctl.ok(["patch", "-p", "storage: null"])?;
    assert!(told.contains("remove the swap zram0"), "{told}");
    node.wait_until_gone("swap", "zram0", BOOT)
}
