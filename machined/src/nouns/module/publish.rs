//! What is shown of modules, and what is to be done where one is not as wanted.

use super::{
    Have, Modules, Status,
    device::Driver,
    needed::{FOR_SWAP, needed},
    parameter::Stand,
};
use crate::{
    noun::Noun as _,
    resource::{Phase, Resource},
};
use keelson_config::Machine;
use keelson_sys::module::{normalize, words};
use std::collections::BTreeMap;

/// The modules that are needed or wanted, and the drivers.
pub(super) fn publish(modules: &Modules, have: &Have, want: &Machine) -> Vec<Resource> {
    let for_swap = |name: &str| FOR_SWAP.iter().any(|(wanted, _)| *wanted == name);
    let reasons: BTreeMap<String, &str> = needed(want)
        .map(|(name, why)| (normalize(name), why))
        .collect();
    let configured: BTreeMap<&str, &BTreeMap<String, String>> = want
        .modules
        .iter()
        .map(|module| (module.name.as_str(), &module.parameters))
        .collect();
    let fixed = have.fixed.iter().map(|(name, status)| {
        let why = reasons.get(name).copied();
        let mine = configured.get(name.as_str());
        let reason = || why.unwrap_or("wanted by the config").to_owned();
        let (phase, message) = match (status, modules.refused.get(name)) {
            (Status::There, _) => {
                troubles(have, name, mine.copied()).unwrap_or((Phase::Ready, reason()))
            }
            (Status::Loading, _) => (Phase::Pending, "is being loaded".to_owned()),
            (Status::Nowhere, _) if mine.is_some() => {
                (Phase::Failed, not_carried(have.nearest.get(name)))
            }
            (Status::Nowhere, _) => (
                Phase::Pending,
                format!("is not in the image; it is for {}", reason()),
            ),
            (Status::InImage, Some(error)) => (Phase::Failed, error.clone()),
            (Status::InImage, None) => (Phase::Pending, reason()),
        };
        let resource = Resource::new(Modules::KIND, name, phase)
            .message(message)
            .field(
                "for",
                if why.is_some() && !for_swap(name) {
                    "role"
                } else {
                    "config"
                },
            )
            .field("loading", *status == Status::Loading);
        match mine.filter(|parameters| !parameters.is_empty()) {
            Some(parameters) => resource.field("parameters", words(parameters)),
            None => resource,
        }
    });
    let driver = |(name, driver): (&String, &Driver)| {
        let (phase, message) = match modules.refused.get(name) {
            Some(error) => (Phase::Failed, error.clone()),
            None if have.loading.contains(name) => (Phase::Pending, "is being loaded".to_owned()),
            None if driver.tried || !have.new.contains_key(name) => (Phase::Ready, String::new()),
            None => (Phase::Pending, String::new()),
        };
        let resource = Resource::new(Modules::KIND, name, phase).message(message);
        resource
            .field("for", "device")
            .field("device", driver.device.clone())
    };
    let drivers = modules
        .drivers
        .iter()
        .filter(|(name, _)| !have.fixed.contains_key(*name));
    fixed.chain(drivers.map(driver)).collect()
}

/// Why a module of the config cannot be had, if another one of the image has the name that
/// is nearest.
fn not_carried(nearest: Option<&String>) -> String {
    match nearest {
        Some(near) => format!("is not in the image; did you mean {near}?"),
        None => "is not in the image".to_owned(),
    }
}

/// What is not as wanted of a module's parameters, the worst first.
fn troubles(
    have: &Have,
    module: &str,
    wanted: Option<&BTreeMap<String, String>>,
) -> Option<(Phase, String)> {
    let built_in = have.built_in.contains(module);
    let early = have.early.contains(module);
    let mut never = Vec::new();
    let mut later = Vec::new();
    let mut unseen = Vec::new();
    for (key, stand) in have.stands.get(module)? {
        let value = wanted.and_then(|wanted| wanted.get(key))?;
        match stand {
            Stand::InForce => {}
            Stand::Fixed(now) if built_in => never.push(format!(
                "{key} stays {now}: the module is a part of this kernel, which takes it from the \
                 signed boot image alone"
            )),
            Stand::Unknown if built_in => never.push(format!(
                "{key} cannot be set: the module is a part of this kernel, and shows no such \
                 parameter"
            )),
            Stand::Fixed(now) if early => never.push(format!(
                "{key} stays {now}: the module is loaded from the signed boot image, before a \
                 config is read"
            )),
            Stand::Unknown if early => never.push(format!(
                "{key} cannot be set: the module is loaded from the signed boot image, before a \
                 config is read, and shows no such parameter"
            )),
            Stand::Fixed(now) => later.push(format!(
                "{key} is {now} and waits for a reboot to become {value}"
            )),
            Stand::Unknown => later.push(format!(
                "the module was loaded without {key} and shows no such parameter: it waits for a \
                 reboot to be loaded with it"
            )),
            Stand::Changeable(now) => later.push(format!("{key} is {now}, not {value} yet")),
            Stand::Unseen => unseen.push(format!(
                "it was loaded with {key}={value}, which it does not show; `osctl dmesg` tells if \
                 it knows no such parameter"
            )),
        }
    }
    let phase = if !never.is_empty() {
        Phase::Failed
    } else if !later.is_empty() {
        Phase::Pending
    } else {
        Phase::Ready
    };
    let all: Vec<String> = never.into_iter().chain(later).chain(unseen).collect();
    (!all.is_empty()).then(|| (phase, all.join("; ")))
}
