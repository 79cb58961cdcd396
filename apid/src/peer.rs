//! Who is on the other end, read from the certificate that TLS has verified.

use crate::role::{Caller, Role};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Tells the caller from its certificate chain; `None` means that none was asked for.
pub(crate) fn caller(chain: Option<&[CertificateDer<'_>]>) -> Caller {
    let Some(leaf) = chain.and_then(<[_]>::first) else {
        return Caller::Maintenance;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return Caller::WithoutRole("the client certificate cannot be read".to_owned());
    };
    let subject = certificate.subject();
    let roles: Vec<Role> = subject
        .iter_organization()
        .filter_map(|attribute| attribute.as_str().ok())
        .filter_map(Role::from_organization)
        .collect();
    match roles[..] {
        [role] => Caller::Known {
            role,
            subject: subject.to_string(),
        },
        [] => Caller::WithoutRole(format!(
            "the client certificate ({subject}) names no role: its organisation must be os:reader, os:operator or os:admin"
        )),
        _ => Caller::WithoutRole(format!(
            "the client certificate ({subject}) names more than one role"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(organizations: &[&str]) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for organization in organizations {
            params
                .distinguished_name
                .push(rcgen::DnType::OrganizationName, *organization);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_role_is_one_known_organisation() {
        let cases: [(&[&str], Option<Role>); 4] = [
            (&["os:reader"], Some(Role::Reader)),
            (&["os:admin"], Some(Role::Admin)),
            (&["os:root"], None),
            (&[], None),
        ];
        for (organizations, role) in cases {
            let caller = caller(Some(&[certificate(organizations)]));
            let found = match caller {
                Caller::Known { role, .. } => Some(role),
                _ => None,
            };
            assert_eq!(found, role, "{organizations:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_get_no_role() {
        let garbage = CertificateDer::from(vec![0x30, 0x82, 0xff]);
        assert!(matches!(caller(Some(&[garbage])), Caller::WithoutRole(_)));
    }
}
