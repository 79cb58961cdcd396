//! Who may call what: one table. A method that is not in it needs `os:admin`;
//! the calls between apid and machined are nobody's.

use std::fmt;

/// What a caller is allowed, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Reads state, logs and the config without its secrets.
    Reader,
    /// Also restarts services and the machine.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// The role that an organisation in a client certificate stands for.
    pub(crate) fn from_organization(name: &str) -> Option<Role> {
        match name {
            "os:reader" => Some(Role::Reader),
            "os:operator" => Some(Role::Operator),
            "os:admin" => Some(Role::Admin),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Reader => "os:reader",
            Role::Operator => "os:operator",
            Role::Admin => "os:admin",
        })
    }
}

/// Who is on the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Anybody, while the machine waits for its first config.
    Maintenance,
    /// Somebody with a certificate, and its subject.
    Known {
        /// The role in the certificate.
        role: Role,
        /// The certificate's subject, for the record.
        subject: String,
    },
    /// Somebody whose certificate is genuine but names no role that there is.
    WithoutRole(String),
}

impl Caller {
    /// What machined is told in place of a role.
    pub(crate) fn role_text(&self) -> String {
        match self {
            Caller::Maintenance => "os:maintenance".to_owned(),
            Caller::Known { role, .. } => role.to_string(),
            Caller::WithoutRole(_) => String::new(),
        }
    }

    /// The subject of the caller's certificate; empty without one.
    pub(crate) fn subject(&self) -> &str {
        match self {
            Caller::Known { subject, .. } => subject,
            Caller::Maintenance | Caller::WithoutRole(_) => "",
        }
    }
}

/// A row of the table.
struct Row {
    method: &'static str,
    role: Role,
    /// Whether anybody may call it while the machine waits for its first config.
    maintenance: bool,
}

const fn row(method: &'static str, role: Role) -> Row {
    Row {
        method,
        role,
        maintenance: false,
    }
}

const fn open(method: &'static str, role: Role) -> Row {
    Row {
        method,
        role,
        maintenance: true,
    }
}

/// The table.
const TABLE: &[Row] = &[
    open("/keelson.v1.MachineService/Version", Role::Reader),
    open("/keelson.v1.MachineService/ApplyConfig", Role::Admin),
    row("/keelson.v1.MachineService/ConfirmConfig", Role::Admin),
    row("/keelson.v1.MachineService/RevertConfig", Role::Admin),
    row("/keelson.v1.MachineService/GetConfig", Role::Reader),
    row("/keelson.v1.MachineService/ListServices", Role::Reader),
    row("/keelson.v1.MachineService/RestartService", Role::Operator),
    row("/keelson.v1.MachineService/Logs", Role::Reader),
    row("/keelson.v1.MachineService/Dmesg", Role::Reader),
    row("/keelson.v1.MachineService/Kubeconfig", Role::Admin),
    row("/keelson.v1.MachineService/Reboot", Role::Operator),
    row("/keelson.v1.MachineService/Shutdown", Role::Operator),
    open("/keelson.v1.MachineService/Health", Role::Reader),
    row("/keelson.v1.MachineService/Events", Role::Reader),
    open("/keelson.v1.ResourceService/Get", Role::Reader),
    open("/keelson.v1.ResourceService/List", Role::Reader),
    open("/keelson.v1.ResourceService/Watch", Role::Reader),
    open("/keelson.v1.ResourceService/Kinds", Role::Reader),
    row("/keelson.v1.UpgradeService/Upload", Role::Admin),
    row("/keelson.v1.UpgradeService/Pull", Role::Admin),
    row("/keelson.v1.UpgradeService/Cancel", Role::Admin),
    row("/keelson.v1.UpgradeService/Rollback", Role::Admin),
    row("/keelson.v1.UpgradeService/Forgive", Role::Admin),
    open("/grpc.health.v1.Health/Check", Role::Reader),
    open("/grpc.health.v1.Health/Watch", Role::Reader),
    row(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Role::Reader,
    ),
    row(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Role::Reader,
    ),
];

/// Whether a call goes through, and if not, why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does.
    Allowed,
    /// It does not; the text is for the caller.
    Denied(String),
}

/// Decides whether the caller may call the method (a gRPC path, `/package.Service/Method`).
pub(crate) fn decide(caller: &Caller, method: &str) -> Verdict {
    if method.starts_with("/keelson.internal.") {
        return Verdict::Denied("this call is not offered on the network".to_owned());
    }
    let row = TABLE.iter().find(|row| row.method == method);
    match caller {
        Caller::Maintenance if row.is_some_and(|row| row.maintenance) => Verdict::Allowed,
        Caller::Maintenance => Verdict::Denied(
            "this machine waits for its first config: only version, get, health and apply-config work; \
             apply a config with: osctl apply-config --insecure"
                .to_owned(),
        ),
        Caller::WithoutRole(why) => Verdict::Denied(why.clone()),
        Caller::Known { role, .. } => {
            let needed = row.map_or(Role::Admin, |row| row.role);
            if *role >= needed {
                Verdict::Allowed
            } else {
                Verdict::Denied(format!("{method} needs the role {needed}, this certificate has {role}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use std::collections::BTreeSet;

    fn known(role: Role) -> Caller {
        Caller::Known {
            role,
            subject: "O=test".to_owned(),
        }
    }

    /// Every method of the public packages, as a gRPC path.
    fn published() -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(keelson_api::DESCRIPTORS).unwrap();
        let mut methods = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
        methods
    }

    #[test]
    fn the_table_names_every_published_method_and_no_other() {
        let published: BTreeSet<_> = published()
            .into_iter()
            .filter(|method| method.starts_with("/keelson.v1."))
            .collect();
        let table: BTreeSet<_> = TABLE
            .iter()
            .map(|row| row.method.to_owned())
            .filter(|m| m.starts_with("/keelson.v1."))
            .collect();
        assert_eq!(table, published);
    }

    #[test]
    fn internal_calls_are_nobodys() {
        for method in published()
            .iter()
            .filter(|method| method.starts_with("/keelson.internal."))
        {
            for caller in [Caller::Maintenance, known(Role::Admin)] {
                assert!(
                    matches!(decide(&caller, method), Verdict::Denied(_)),
                    "{method} by {caller:?}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_method_needs_admin() {
        assert!(matches!(
            decide(&known(Role::Operator), "/keelson.v9.New/Thing"),
            Verdict::Denied(_)
        ));
        assert_eq!(
            decide(&known(Role::Admin), "/keelson.v9.New/Thing"),
            Verdict::Allowed
        );
        assert!(matches!(
            decide(&Caller::Maintenance, "/keelson.v9.New/Thing"),
            Verdict::Denied(_)
        ));
    }

    #[test]
    fn each_role_calls_what_it_may() {
        let reboot = "/keelson.v1.MachineService/Reboot";
        let kubeconfig = "/keelson.v1.MachineService/Kubeconfig";
        let version = "/keelson.v1.MachineService/Version";
        let cases = [
            (known(Role::Reader), version, true),
            (known(Role::Reader), reboot, false),
            (known(Role::Operator), reboot, true),
            (known(Role::Operator), kubeconfig, false),
            (known(Role::Admin), kubeconfig, true),
            (Caller::Maintenance, version, true),
            (Caller::Maintenance, reboot, false),
            (Caller::Maintenance, kubeconfig, false),
            (Caller::WithoutRole("no role".to_owned()), version, false),
        ];
        for (caller, method, allowed) in cases {
            assert_eq!(
                decide(&caller, method) == Verdict::Allowed,
                allowed,
                "{caller:?} {method}"
            );
        }
    }

    #[test]
    fn nothing_that_reads_secrets_is_open_in_maintenance() {
        for method in ["GetConfig", "Kubeconfig", "Logs", "Events", "Dmesg"] {
            let path = format!("/keelson.v1.MachineService/{method}");
            assert!(
                matches!(decide(&Caller::Maintenance, &path), Verdict::Denied(_)),
                "{method}"
            );
        }
    }
}
