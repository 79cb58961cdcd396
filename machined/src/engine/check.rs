//! What is asked of a config before it is used: that it is valid, that this image can
//! do what it wants, and that its CA and issuer do not lock everybody out.

use super::handle::Error;
use crate::{
    identity::{self, IdentityError},
    nouns::{disk, swap, volume},
    store::LARGEST,
};
use keelson_api::v1;
use keelson_config::{Diagnostic, Machine, Severity};
use keelson_sys::module::Index;
use std::path::Path;

/// The config and what is doubtful in it, or what is wrong. `carried` is the name of
/// the orchestrator in the image.
pub(super) fn check(
    file_name: &str,
    bytes: &[u8],
    carried: Option<&str>,
) -> Result<(Machine, Vec<v1::Diagnostic>), Error> {
    if bytes.len() > LARGEST {
        return Err(Error::InvalidArgument(format!(
            "the config has {} bytes; {LARGEST} are allowed",
            bytes.len()
        )));
    }
    let outcome = keelson_config::parse(file_name, bytes);
    let mut diagnostics: Vec<v1::Diagnostic> = outcome.diagnostics.iter().map(message).collect();
    let Some(machine) = outcome.machine else {
        return Err(Error::InvalidConfig(diagnostics));
    };
    let mut wrong = Vec::new();
    if let Some((text, hint)) = not_in_the_image(&machine, carried) {
        wrong.push(("orchestrator.name".to_owned(), text, hint));
    }
    if let Some(Err(error)) = machine.api.as_ref().map(identity::check) {
        let path = match &error {
            IdentityError::Config { what, .. } => format!("machine.api.{what}"),
            _ => "machine.api".to_owned(),
        };
        let hint = "take ca and issuer from the same `osctl gen secrets`".to_owned();
        wrong.push((path, format!("{:#}", anyhow::Error::from(error)), hint));
    }
    if wrong.is_empty() {
        return Ok((machine, diagnostics));
    }
    for (path, text, hint) in wrong {
        let mut found = keelson_config::locate(file_name, bytes, &path, Severity::Error, &text);
        found.hint = Some(hint);
        diagnostics.push(message(&found));
    }
    Err(Error::InvalidConfig(diagnostics))
}

/// What is doubtful in the modules that a config wants: those that the image does not carry.
pub(super) async fn modules(
    file_name: &str,
    bytes: &[u8],
    machine: &Machine,
) -> Vec<v1::Diagnostic> {
    if machine.modules.is_empty() {
        return Vec::new();
    }
    match tokio::task::spawn_blocking(Index::open_running).await {
        Ok(Ok(index)) => missing_modules(file_name, bytes, machine, &index),
        // The noun tells.
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// What is doubtful in the swap that a config wants, on a machine with so much memory.
pub(super) fn swap(
    file_name: &str,
    bytes: &[u8],
    machine: &Machine,
    memory: u64,
) -> Option<v1::Diagnostic> {
    let size = machine.swap?.size.bytes(memory);
    let text = swap::too_large(size, memory)?;
    let path = "storage.swap.zram.size";
    let found = keelson_config::locate(file_name, bytes, path, Severity::Warning, &text);
    Some(message(&found))
}

/// What is doubtful in the volumes that a config wants: those whose disk is not told from
/// others, or is not there.
pub(super) async fn volumes(
    file_name: &str,
    bytes: &[u8],
    machine: &Machine,
    system: &Path,
) -> Vec<v1::Diagnostic> {
    if machine.volumes.is_empty() {
        return Vec::new();
    }
    let disks = tokio::task::spawn_blocking(|| disk::identities(Path::new("/sys/block")));
    match disks.await {
        Ok(Ok(disks)) => doubtful_volumes(file_name, bytes, machine, &disks, system),
        // The noun tells.
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

fn doubtful_volumes(
    file_name: &str,
    bytes: &[u8],
    machine: &Machine,
    disks: &[disk::Disk],
    system: &Path,
) -> Vec<v1::Diagnostic> {
    let doubt = |(at, wanted)| {
        let text = volume::doubt(wanted, disks, system)?;
        let path = format!("storage.volumes[{at}].disk");
        let found = keelson_config::locate(file_name, bytes, &path, Severity::Warning, &text);
        Some(message(&found))
    };
    machine
        .volumes
        .iter()
        .enumerate()
        .filter_map(doubt)
        .collect()
}

fn missing_modules(
    file_name: &str,
    bytes: &[u8],
    machine: &Machine,
    index: &Index,
) -> Vec<v1::Diagnostic> {
    let names = machine.modules.iter().map(|module| module.name.as_str());
    let missing = names
        .enumerate()
        .filter(|(_, name)| !index.contains(name) && !index.is_builtin(name));
    missing
        .map(|(at, name)| {
            let path = format!("machine.kernel.modules[{at}].name");
            let text = format!("this image carries no module {name}");
            let mut found =
                keelson_config::locate(file_name, bytes, &path, Severity::Warning, &text);
            found.hint = keelson_config::nearest(name, index.names())
                .map(|near| format!("did you mean {near}?"));
            message(&found)
        })
        .collect()
}

fn message(diagnostic: &Diagnostic) -> v1::Diagnostic {
    let severity = match diagnostic.severity {
        Severity::Error => v1::diagnostic::Severity::Error,
        Severity::Warning => v1::diagnostic::Severity::Warning,
    };
    v1::Diagnostic {
        severity: severity.into(),
        file: diagnostic.file.clone(),
        line: diagnostic.line,
        column: diagnostic.column,
        path: diagnostic.path.clone(),
        message: diagnostic.message.clone(),
        hint: diagnostic.hint.clone().unwrap_or_default(),
        rendered: diagnostic.render(false),
    }
}

/// What is wrong, and what to do, if the config wants an orchestrator that the image
/// does not carry.
fn not_in_the_image(machine: &Machine, carried: Option<&str>) -> Option<(String, String)> {
    let wanted = machine.orchestrator.as_ref()?.name.as_str();
    match carried {
        Some(carried) if carried == wanted => None,
        Some(carried) => Some((
            format!("this image carries {carried}, not {wanted}"),
            format!("write `name: {carried}`, or use an image with {wanted}"),
        )),
        None => Some((
            format!("this image carries no orchestrator, so {wanted} cannot run"),
            "set machine.role to none, or use an image with an orchestrator".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_config::{Orchestrator, Secret};

    /// Shows: orchestrator.name
    #[test]
    fn the_image_must_carry_what_the_config_wants() {
        let mut machine = Machine::maintenance();
        assert_eq!(not_in_the_image(&machine, None), None);
        machine.orchestrator = Some(Orchestrator {
            name: "k3s".into(),
            token: Secret::new(String::new()),
            server: None,
            datastore: None,
            images: Vec::new(),
            manifests: Default::default(),
            settings: Default::default(),
        });
        assert_eq!(not_in_the_image(&machine, Some("k3s")), None);
        let (other, hint) = not_in_the_image(&machine, Some("kubernetes-standin")).unwrap();
        assert_eq!(other, "this image carries kubernetes-standin, not k3s");
        assert!(hint.contains("name: kubernetes-standin"));
        let (none, _) = not_in_the_image(&machine, None).unwrap();
        assert!(none.contains("no orchestrator"));
    }

    #[test]
    fn what_is_too_large_is_refused_unread() {
        let error = check("m.yaml", &vec![b' '; LARGEST + 1], None).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)));
        assert!(matches!(
            check("m.yaml", b"\xff\xfe\x00", None),
            Err(Error::InvalidConfig(_))
        ));
    }

    #[test]
    fn swap_that_no_memory_could_hold_is_told_of_at_its_line() {
        let text = include_str!("../../../config/tests/cases/valid/smallest.yaml");
        let text = format!("{text}storage: {{swap: {{zram: {{size: 4Gi}}}}}}\n");
        let machine = keelson_config::parse("m.yaml", text.as_bytes())
            .machine
            .unwrap();
        assert_eq!(swap("m.yaml", text.as_bytes(), &machine, 2 << 30), None);
        let found = swap("m.yaml", text.as_bytes(), &machine, 1 << 30).unwrap();
        assert_eq!(found.path, "storage.swap.zram.size");
        assert!(found.line > 0 && found.message.contains("4096 MiB of swap"));
    }

    #[test]
    fn a_disk_that_is_not_told_from_others_is_told_of_at_its_line() {
        let text = include_str!("../../../config/tests/cases/valid/smallest.yaml");
        let text = format!(
            "{text}storage:\n  volumes:\n  - {{name: one, disk: {{serial: a}}}}\n  \
             - {{name: two, disk: {{serial: b}}}}\n  - {{name: three, disk: {{transport: usb}}}}\n"
        );
        let machine = keelson_config::parse("m.yaml", text.as_bytes()).machine;
        let disk = |name: &str, serial: &str| disk::Disk {
            name: name.into(),
            serial: Some(serial.into()),
            transport: "usb",
            size: 20 << 30,
            ..disk::Disk::default()
        };
        let disks = [disk("sda", "s"), disk("sdb", "a"), disk("sdc", "c")];
        let machine = machine.unwrap();
        let system = Path::new("/dev/sda");
        let found = doubtful_volumes("m.yaml", text.as_bytes(), &machine, &disks, system);
        let paths: Vec<_> = found.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(
            paths,
            ["storage.volumes[1].disk", "storage.volumes[2].disk"]
        );
        assert!(found[0].line > 0 && found[0].message.contains("no disk matches; there are sdb"));
        assert!(
            found[1].message.starts_with("2 disks match"),
            "{}",
            found[1].message
        );
    }

    #[test]
    fn a_module_that_the_image_lacks_is_told_of_at_its_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("modules.dep"), "kernel/zram.ko:\n").unwrap();
        std::fs::write(dir.path().join("modules.builtin"), "kernel/loop.ko\n").unwrap();
        let index = Index::open(dir.path()).unwrap();
        let text = include_str!("../../../config/tests/cases/valid/smallest.yaml");
        let modules =
            "  kernel: {modules: [{name: loop}, {name: zramm}, {name: zram}, {name: nonesuch}]}";
        let text = text.replace("  role: none\n", &format!("  role: none\n{modules}\n"));
        let machine = keelson_config::parse("m.yaml", text.as_bytes()).machine;
        let found = missing_modules("m.yaml", text.as_bytes(), &machine.unwrap(), &index);
        let said: Vec<_> = found
            .iter()
            .map(|it| (it.line, it.message.as_str(), it.hint.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (
                    5,
                    "this image carries no module zramm",
                    "did you mean zram?"
                ),
                (5, "this image carries no module nonesuch", ""),
            ]
        );
    }
}
