//! The rules of `machine.kernel`: which modules are loaded, and with what.

use super::{checked, first_of, items};
use crate::{
    Module, ModuleName,
    document::KernelSection,
    read::{Given, Reader},
    tree::quote,
    value::Wrong,
};
use std::collections::BTreeMap;

/// The longest name of a module: `MODULE_NAME_LEN` of the kernel, less its end.
const LONGEST_NAME: usize = 55;

/// The longest value of a parameter.
const LONGEST_VALUE: usize = 1024;

pub(super) fn modules(reader: &mut Reader<'_>, kernel: &Given<KernelSection>) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut seen = BTreeMap::new();
    let Some(kernel) = kernel.is() else {
        return modules;
    };
    for module in items(&kernel.value.modules) {
        let mut parameters = BTreeMap::new();
        if let Some(entries) = module.value.parameters.is() {
            for entry in &entries.value.0 {
                let key = reader.key(entry.at).replace('-', "_");
                let value = &entry.value.0;
                if let Err(Wrong { message, hint }) = parameter(&key) {
                    reader.key_error(entry.at, message, &hint);
                } else if let Err(Wrong { message, hint }) = parameter_value(value) {
                    reader.error(entry.at, message, &hint);
                } else if parameters.insert(key.clone(), value.clone()).is_some() {
                    let message = format!("{key} is given twice");
                    let hint = "- and _ are the same: remove one of the two";
                    reader.key_error(entry.at, message, hint);
                }
            }
        }
        let Some(name) = module.value.name.is() else {
            continue;
        };
        if let Some(parsed) = checked(reader, name, |text| module_name(text))
            && first_of(reader, &mut seen, parsed.clone(), name.at)
        {
            modules.push(Module {
                name: parsed,
                parameters,
            });
        }
    }
    modules
}

fn module_name(text: &str) -> Result<ModuleName, Wrong> {
    let wrong = || {
        Wrong::new(format!(
            "{} is not the name of a kernel module",
            quote(text)
        ))
    };
    let base = text.rsplit('/').next().unwrap_or(text);
    let base = base.split(".ko").next().unwrap_or(base);
    if base != text && is_word(base) {
        return Err(wrong().hint(format!("write the name alone: {base}")));
    }
    if !is_word(text) || text.len() > LONGEST_NAME {
        return Err(wrong().hint("letters, digits, - and _ are allowed, as in nf_conntrack"));
    }
    Ok(ModuleName(text.replace('-', "_")))
}

fn parameter(key: &str) -> Result<(), Wrong> {
    if is_word(key) && key.len() <= 64 {
        return Ok(());
    }
    let message = format!("{} is not the name of a module's parameter", quote(key));
    let wrong = Wrong::new(message);
    Err(match key.split_once('.') {
        Some((_, alone)) if is_word(alone) => {
            wrong.hint(format!("write it without the module: {alone}"))
        }
        _ => wrong.hint("letters, digits and _ are allowed, as in hashsize"),
    })
}

fn parameter_value(value: &str) -> Result<(), Wrong> {
    if value.is_empty() {
        return Err(
            Wrong::new("the value is empty").hint("remove the key to leave the parameter alone")
        );
    }
    if value.len() > LONGEST_VALUE || value.contains(char::is_control) {
        return Err(Wrong::new(
            "the value of a module's parameter is one short line",
        ));
    }
    // The kernel cuts what it is given at quotes, and knows no way to write one.
    if value.contains('"') {
        return Err(Wrong::new(
            "the value of a module's parameter cannot hold a \"",
        ));
    }
    Ok(())
}

/// Whether a text is made of what the kernel's names are made of.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}
