//! What follows from who the machine is: the certificate that apid serves with, and
//! what the person at the console is told.

use super::{Engine, views};
use crate::{
    identity::{Fit, Names},
    orchestrator,
};
use keelson_config::Role;
use std::{sync::Arc, time::Duration};

/// How long the machine may take to get its addresses back.
const COMING_UP: Duration = Duration::from_secs(60);

impl Engine {
    /// Makes what apid serves with, as far as it is not good any more.
    pub(super) fn certify(&mut self) {
        let machine = self.wanted.borrow().machine.clone();
        let credentials = match &machine.api {
            None => self.identity.maintenance(),
            Some(api) => {
                let fit = if self.started.elapsed() < COMING_UP {
                    Fit::Covering
                } else {
                    Fit::Exact
                };
                let mut names = Names::new(self.identity.machine_id());
                if let Some(name) = views::hostname(&machine) {
                    names.add(&name);
                }
                api.sans.iter().for_each(|name| names.add(name));
                if let Some(shared) = &machine.network.virtual_address {
                    names.add(&shared.address.to_string());
                }
                orchestrator::needs::addresses(&self.resources)
                    .iter()
                    .for_each(|address| names.add(address));
                match self.identity.serving(api, &names, fit, self.now()) {
                    Ok((credentials, reason)) => {
                        self.certificate_problem = None;
                        if let Some(reason) = reason {
                            self.events
                                .say("certificate", format!("made a new one: {reason}"));
                        }
                        credentials
                    }
                    Err(error) => {
                        let problem = format!("{:#}", anyhow::Error::from(error));
                        if self.certificate_problem.as_ref() != Some(&problem) {
                            self.events.say("certificate", problem.as_str());
                            self.certificate_problem = Some(problem);
                        }
                        return;
                    }
                }
            }
        };
        self.credentials.send_if_modified(|old| {
            let changed = old.as_deref() != Some(&credentials);
            *old = Some(Arc::new(credentials));
            changed
        });
    }

    /// Tells the person at the console where the machine is and what it waits for.
    pub(super) fn greet(&mut self) {
        let Some(fingerprint) = self.credentials.borrow().as_ref().map(|c| c.fingerprint()) else {
            return;
        };
        let addresses = orchestrator::needs::addresses(&self.resources);
        let machine = self.wanted.borrow().machine.clone();
        let text = match (&*self.config.borrow(), addresses.first()) {
            (None, None) => {
                format!("waiting for a config and for a network address, fingerprint {fingerprint}")
            }
            (None, Some(address)) => {
                let host = if address.contains(':') {
                    format!("[{address}]")
                } else {
                    address.clone()
                };
                format!(
                    "waiting for a config: osctl apply-config --insecure --cert-fingerprint {fingerprint} \
                     --endpoint {host}:{} -f machine.yaml",
                    keelson_api::PORT
                )
            }
            (Some(_), _) => {
                let role = match machine.role {
                    Role::Server => "server",
                    Role::Agent => "agent",
                    Role::None => "no role",
                };
                let at = if addresses.is_empty() {
                    "no address yet".to_owned()
                } else {
                    addresses.join(", ")
                };
                format!(
                    "{} ({role}), {at}, fingerprint {fingerprint}",
                    views::hostname(&machine)
                        .as_deref()
                        .unwrap_or("no name yet")
                )
            }
        };
        if text != self.greeting {
            self.console.say(&text);
            self.greeting = text;
        }
    }
}
