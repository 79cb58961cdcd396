//! From the document to the machine: what the values mean together, and every
//! default. All that is wrong is reported, each at its own place; what depends
//! on a value that was already refused is left alone.

mod egress;
mod firewall;
mod images;
mod kernel;
mod logging;
mod network;
mod orchestrator;
mod storage;
mod together;

use crate::{
    Api, HealthGate, Hostname, Issuer, Machine, Role, Secret, SysctlKey, Time, TlsFiles,
    document::{
        ApiSection, Document, HealthGateSection, MachineSection, RoleWord, TimeSection,
        WatchdogSection,
    },
    read::{Given, Located, Reader},
    tree::{NodeId, quote},
    value::{self, Pem, Wrong},
};
use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

/// The only version of the form that is known.
pub(crate) const API_VERSION: &str = "keelson.dev/v1alpha1";
/// The only kind of document.
pub(crate) const KIND: &str = "Machine";
const DEFAULT_TIME_SERVERS: [&str; 4] = [
    "0.pool.ntp.org",
    "1.pool.ntp.org",
    "2.pool.ntp.org",
    "3.pool.ntp.org",
];

/// Whether this is a machine config of this version at all. Where it says that it
/// is something else, nothing else is worth reporting; where it says nothing, the
/// reader reports that.
pub(crate) fn is_machine(reader: &mut Reader<'_>, document: NodeId) -> bool {
    let mut fine = true;
    let rules = [
        (
            "apiVersion",
            API_VERSION,
            "this version of Keelson knows no other",
        ),
        ("kind", KIND, "is this the right file?"),
    ];
    for (key, expected, hint) in rules {
        if let Some((at, found)) = reader.text_at(document, key)
            && found != expected
        {
            reader.error(
                at,
                format!("expected {expected}, found {}", quote(found)),
                hint,
            );
            fine = false;
        }
    }
    fine
}

/// The machine that a document describes. `None` where something is missing or
/// wrong; that was reported.
pub(crate) fn machine(reader: &mut Reader<'_>, document: &Located<Document>) -> Option<Machine> {
    let written = &document.value;
    let network = network::network(reader, &written.network);
    let swap = storage::swap(reader, &written.storage);
    let volumes = storage::volumes(reader, &written.storage);
    let section = written.machine.is();
    let role = section
        .and_then(|section| section.value.role.is())
        .map(|role| match role.value {
            RoleWord::Server => Role::Server,
            RoleWord::Agent => Role::Agent,
            RoleWord::None => Role::None,
        });
    let orchestrator = orchestrator::orchestrator(reader, document.at, role, &written.orchestrator);
    // A document that does not say what it is describes no machine.
    written.api_version.is()?;
    written.kind.is()?;
    let MachineSection {
        hostname,
        sysctls,
        kernel,
        logging,
        time,
        api,
        watchdog,
        health_gate,
        trusted_cas,
        proxy,
        env,
        registries,
        files,
        role: _,
    } = &section?.value;
    let hostname = match hostname {
        Given::Is(hostname) => Some(checked(reader, hostname, |text| text.parse::<Hostname>())),
        Given::Absent | Given::Bad => None,
    };
    let sysctls = match sysctls {
        Given::Is(entries) => entries
            .value
            .0
            .iter()
            .filter_map(|entry| sysctl(reader, entry))
            .collect(),
        Given::Absent | Given::Bad => BTreeMap::new(),
    };
    let modules = kernel::modules(reader, kernel);
    let forward = logging::forward(reader, logging);
    let time = self::time(reader, time);
    let api = api.is().and_then(|api| self::api(reader, &api.value));
    let watchdog = self::watchdog(reader, watchdog);
    let health_gate = self::health_gate(reader, health_gate);
    let egress = egress::egress(reader, trusted_cas, proxy);
    let env = egress::env(reader, env);
    let registries = images::registries(reader, registries);
    let files = images::files(reader, files);
    let machine = Machine {
        hostname: hostname.flatten(),
        role: role?,
        sysctls,
        modules,
        forward,
        time,
        api: Some(api?),
        watchdog,
        health_gate,
        egress,
        env,
        registries,
        files,
        network: network?,
        swap,
        volumes,
        orchestrator: orchestrator?,
    };
    if !reader.problems.has_errors() {
        together::check(reader, written, &machine);
    }
    Some(machine)
}

/// The value of a text, or a report of what is wrong with it.
fn checked<S, T>(
    reader: &mut Reader<'_>,
    written: &Located<S>,
    parse: impl Fn(&S) -> Result<T, Wrong>,
) -> Option<T> {
    match parse(&written.value) {
        Ok(value) => Some(value),
        Err(Wrong { message, hint }) => {
            reader.error(written.at, message, &hint);
            None
        }
    }
}

/// The items of a list that is there, and none of one that is not.
fn items<T>(list: &Given<Vec<Located<T>>>) -> &[Located<T>] {
    list.is().map_or(&[], |list| &list.value)
}

/// Reports the second of two equal values; `false` for that one.
fn first_of<T: Ord>(
    reader: &mut Reader<'_>,
    seen: &mut BTreeMap<T, String>,
    item: T,
    at: NodeId,
) -> bool {
    match seen.get(&item) {
        Some(first) => {
            let message = format!("is given twice, first at {first}");
            reader.error(at, message, "remove one of the two");
            false
        }
        None => {
            seen.insert(item, reader.path(at));
            true
        }
    }
}

fn sysctl(
    reader: &mut Reader<'_>,
    entry: &Located<crate::read::TextOrNumber>,
) -> Option<(SysctlKey, String)> {
    let name = reader.key(entry.at);
    let key = match name.parse::<SysctlKey>() {
        Ok(key) => key,
        Err(Wrong { message, hint }) => {
            reader.key_error(entry.at, message, &hint);
            return None;
        }
    };
    if matches!(name, "kernel.hostname" | "kernel.domainname") {
        reader.key_error(
            entry.at,
            "the host name is not set as a kernel parameter",
            "set machine.hostname",
        );
        return None;
    }
    let value = &entry.value.0;
    if value.trim().is_empty() {
        reader.error(
            entry.at,
            "the value is empty",
            "remove the key to leave the parameter alone",
        );
        return None;
    }
    if value.len() > 1024 || value.trim().contains(['\n', '\r']) {
        reader.error(
            entry.at,
            "the value of a kernel parameter is one short line",
            "",
        );
        return None;
    }
    Some((key, value.trim().to_owned()))
}

/// The longest that the orchestrator may be told to wait for a time server.
const BOOT_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

fn time(reader: &mut Reader<'_>, written: &Given<TimeSection>) -> Time {
    let mut time = Time {
        servers: DEFAULT_TIME_SERVERS.map(str::to_owned).to_vec(),
        ..Time::default()
    };
    let Some(section) = written.is() else {
        return time;
    };
    let TimeSection {
        servers,
        boot_timeout,
    } = &section.value;
    if let Some(written) = boot_timeout.is()
        && let Some(given) = checked(reader, written, |text| value::duration(text, &BOOT_TIMEOUT))
    {
        time.boot_timeout = given;
    }
    if servers.is_absent() {
        return time;
    }
    time.servers.clear();
    let mut seen = BTreeMap::new();
    for server in items(servers) {
        if let Some(name) = checked(reader, server, |text| value::host(text))
            && first_of(reader, &mut seen, name.clone(), server.at)
        {
            time.servers.push(name);
        }
    }
    time
}

/// The least and the most that a machine may hang: with less the watchdog leaves no log of it.
const WATCHDOG: RangeInclusive<Duration> = Duration::from_secs(30)..=Duration::from_secs(3600);

fn watchdog(reader: &mut Reader<'_>, written: &Given<WatchdogSection>) -> Duration {
    written
        .is()
        .and_then(|section| section.value.timeout.is())
        .and_then(|text| checked(reader, text, |text| value::duration(text, &WATCHDOG)))
        .unwrap_or(Machine::WATCHDOG)
}

/// The least and the most that a release on trial may be given.
const GATE_DEADLINE: RangeInclusive<Duration> =
    Duration::from_secs(30)..=Duration::from_secs(24 * 3600);

/// The longest that it must hold.
const GATE_STABLE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

fn health_gate(reader: &mut Reader<'_>, gate: &Given<HealthGateSection>) -> HealthGate {
    let mut rules = HealthGate::default();
    let Some(gate) = gate.is() else { return rules };
    let mut set = |written: &Given<String>, range, value: &mut Duration| {
        if let Given::Is(written) = written
            && let Some(given) = checked(reader, written, |text| value::duration(text, &range))
        {
            *value = given;
        }
    };
    set(&gate.value.deadline, GATE_DEADLINE, &mut rules.deadline);
    set(&gate.value.stable, GATE_STABLE, &mut rules.stable);
    let mut seen = BTreeMap::new();
    for word in items(&gate.value.ignore) {
        let name = word.value.word();
        if first_of(reader, &mut seen, name, word.at) {
            rules.ignore.push(name);
        }
    }
    rules
}

fn api(reader: &mut Reader<'_>, api: &ApiSection) -> Option<Api> {
    let ca = certificate(reader, &api.ca, Pem::Certificates);
    let issuer = api.issuer.is().and_then(|issuer| {
        let cert = certificate(reader, &issuer.value.cert, Pem::Certificate);
        let key = issuer.value.key.is().and_then(|key| {
            checked(reader, key, |key: &Secret| {
                value::pem(key.reveal(), Pem::PrivateKey)
            })?;
            Some(key.value.clone())
        });
        Some(Issuer {
            cert: cert?,
            key: key?,
        })
    });
    let mut seen = BTreeMap::new();
    let mut sans = Vec::new();
    for san in items(&api.sans) {
        if let Some(name) = checked(reader, san, |text| value::host(text))
            && first_of(reader, &mut seen, name.clone(), san.at)
        {
            sans.push(name);
        }
    }
    Some(Api {
        ca: ca?,
        issuer: issuer?,
        sans,
    })
}

/// The certificates of a connection: its CAs, and what is shown to the other side, which is a
/// certificate and its key or neither.
fn tls(
    reader: &mut Reader<'_>,
    around: NodeId,
    ca: &Given<String>,
    cert: &Given<String>,
    key: &Given<Secret>,
) -> TlsFiles {
    for (has, lacks, missing) in [
        (cert.is().is_some(), key.is_absent(), "key"),
        (key.is().is_some(), cert.is_absent(), "cert"),
    ] {
        if has && lacks {
            reader.missing(around, missing, "a certificate and its key go together", "");
        }
    }
    let ca = certificate(reader, ca, Pem::Certificates);
    let cert = certificate(reader, cert, Pem::Certificates);
    let key = key.is().and_then(|key| {
        checked(reader, key, |key: &Secret| {
            value::pem(key.reveal(), Pem::PrivateKey)
        })?;
        Some(key.value.clone())
    });
    TlsFiles {
        ca,
        own: cert.zip(key).map(|(cert, key)| Issuer { cert, key }),
    }
}

fn certificate(reader: &mut Reader<'_>, written: &Given<String>, want: Pem) -> Option<String> {
    let written = written.is()?;
    checked(reader, written, |text| value::pem(text, want))?;
    Some(written.value.clone())
}
