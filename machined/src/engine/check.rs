//! What is asked of a config before it is used: that it is valid, and that this image
//! can do what it wants.

use super::handle::Error;
use crate::store::LARGEST;
use keelson_api::v1;
use keelson_config::{Diagnostic, Machine, Severity};

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
    if let Some(wrong) = not_in_the_image(file_name, &machine, carried) {
        diagnostics.push(wrong);
        return Err(Error::InvalidConfig(diagnostics));
    }
    Ok((machine, diagnostics))
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

/// Whether the config wants an orchestrator that the image does not carry.
fn not_in_the_image(
    file_name: &str,
    machine: &Machine,
    carried: Option<&str>,
) -> Option<v1::Diagnostic> {
    let wanted = machine.orchestrator.as_ref()?.name.as_str();
    if carried == Some(wanted) {
        return None;
    }
    let (said, hint) = match carried {
        Some(carried) => (
            format!("this image carries {carried}, not {wanted}"),
            format!("write orchestrator.name: {carried}"),
        ),
        None => (
            format!("this image carries no orchestrator, so {wanted} cannot run"),
            "write machine.role: none, or use an image with an orchestrator".to_owned(),
        ),
    };
    Some(v1::Diagnostic {
        severity: v1::diagnostic::Severity::Error.into(),
        file: file_name.to_owned(),
        path: "orchestrator.name".into(),
        rendered: format!("{file_name}: error: orchestrator.name: {said}\n  hint: {hint}\n"),
        message: said,
        hint,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_config::{Orchestrator, Secret};

    #[test]
    fn the_image_must_carry_what_the_config_wants() {
        let mut machine = Machine::maintenance();
        assert_eq!(not_in_the_image("m.yaml", &machine, None), None);
        machine.orchestrator = Some(Orchestrator {
            name: "k3s".into(),
            token: Secret::new(String::new()),
            server: None,
            settings: Default::default(),
        });
        assert_eq!(not_in_the_image("m.yaml", &machine, Some("k3s")), None);
        let other = not_in_the_image("m.yaml", &machine, Some("kubernetes-standin")).unwrap();
        assert_eq!(
            other.message,
            "this image carries kubernetes-standin, not k3s"
        );
        assert!(
            not_in_the_image("m.yaml", &machine, None)
                .unwrap()
                .message
                .contains("no orchestrator")
        );
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
}
