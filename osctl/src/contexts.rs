//! The file of contexts: which clusters this person can call, and with which
//! certificate. It holds keys: readable to its owner alone.

use crate::{
    client::Endpoint,
    error::{Error, Result},
    file::{self, Existing},
    yaml,
};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use std::{
    collections::BTreeMap,
    env, fmt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The version of the file that is written, and the only one that is read.
const FORMAT_VERSION: u32 = 1;

/// All contexts.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Contexts {
    /// The one that is used where none is named.
    pub(crate) current: Option<String>,
    /// By name.
    pub(crate) all: BTreeMap<String, Context>,
}

/// One way into one cluster.
#[derive(Clone, PartialEq)]
pub(crate) struct Context {
    /// The nodes' endpoints, at least one.
    pub(crate) endpoints: Vec<Endpoint>,
    /// What the nodes' certificates chain to, PEM.
    pub(crate) ca: String,
    /// Our certificate, PEM.
    pub(crate) cert: String,
    /// Its key, PEM.
    pub(crate) key: Zeroizing<String>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context {{ endpoints: {:?}, *** }}", self.endpoints)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    format_version: u32,
    #[serde(default)]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, ContextDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextDocument {
    endpoints: Vec<String>,
    ca: String,
    cert: String,
    #[serde(deserialize_with = "secret")]
    key: Zeroizing<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// Where the file is if no option and no `OSCTL_CONFIG` says so.
pub(crate) fn default_path() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CONFIG_HOME").map(PathBuf::from) {
        Some(base) if base.is_absolute() => base,
        _ => file::home()?.join(".config"),
    };
    Ok(base.join("osctl").join("config.yaml"))
}

impl Contexts {
    /// Reads the file; one that is not there holds no context.
    pub(crate) fn load(path: &Path) -> Result<Contexts> {
        match path.try_exists() {
            Ok(false) => Ok(Contexts::default()),
            _ => Contexts::read(path),
        }
    }

    /// Reads the file; it must be there.
    pub(crate) fn read(path: &Path) -> Result<Contexts> {
        let text = Zeroizing::new(file::read_text(path, 4 << 20)?);
        Contexts::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Contexts> {
        let invalid = |cause: String| {
            Error::input(format!("{} is not a file of contexts", path.display())).cause(cause)
        };
        let document: Document = yaml::parse(path, text)?;
        if document.format_version != FORMAT_VERSION {
            return Err(invalid(format!(
                "its formatVersion is {}, and this osctl knows {FORMAT_VERSION}",
                document.format_version
            )));
        }
        let mut all = BTreeMap::new();
        for (name, context) in document.contexts {
            let endpoints = context
                .endpoints
                .iter()
                .map(|endpoint| endpoint.parse())
                .collect::<Result<Vec<Endpoint>, _>>()
                .map_err(|error| invalid(format!("context {name:?}: {error}")))?;
            if endpoints.is_empty() {
                return Err(invalid(format!("context {name:?} has no endpoint")));
            }
            let ContextDocument { ca, cert, key, .. } = context;
            all.insert(
                name,
                Context {
                    endpoints,
                    ca,
                    cert,
                    key,
                },
            );
        }
        Ok(Contexts {
            current: document.current,
            all,
        })
    }

    fn to_text(&self) -> Result<Zeroizing<String>> {
        let contexts: serde_json::Map<_, _> = self
            .all
            .iter()
            .map(|(name, context)| {
                let endpoints: Vec<_> = context.endpoints.iter().map(Endpoint::to_string).collect();
                let value = json!({
                    "endpoints": endpoints, "ca": context.ca, "cert": context.cert, "key": *context.key,
                });
                (name.clone(), value)
            })
            .collect();
        let mut document = json!({ "formatVersion": FORMAT_VERSION, "contexts": contexts });
        if let Some(current) = &self.current {
            document["current"] = json!(current);
        }
        Ok(Zeroizing::new(yaml::to_text(&document)?))
    }

    /// Writes the file, and its folder if it is missing.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        file::make_parent(path)?;
        file::write_secret(path, self.to_text()?.as_bytes(), Existing::Replace)
    }

    /// The context of that name, or the current one.
    pub(crate) fn pick(&self, name: Option<&str>) -> Result<(&str, &Context)> {
        let name = match name.or(self.current.as_deref()) {
            Some(name) => name,
            None if self.all.is_empty() => {
                return Err(Error::input("there is no context yet").hint(
                    "make one: osctl config add NAME --secrets secrets.yaml --endpoint HOST",
                ));
            }
            None => {
                return Err(Error::input("no context is chosen").hint(format!(
                    "choose one with `osctl config use NAME` or --context: {}",
                    self.names()
                )));
            }
        };
        self.all
            .get_key_value(name)
            .map(|(name, context)| (name.as_str(), context))
            .ok_or_else(|| {
                let error = Error::input(format!("there is no context {name:?}"));
                match nearest(name, self.all.keys()) {
                    Some(nearest) => error.hint(format!("did you mean {nearest:?}?")),
                    None if self.all.is_empty() => {
                        error.hint("there is none at all: osctl config add")
                    }
                    None => error.hint(format!("there are: {}", self.names())),
                }
            })
    }

    fn names(&self) -> String {
        self.all.keys().cloned().collect::<Vec<_>>().join(", ")
    }
}

/// The name that was probably meant.
pub(crate) fn nearest<'a, S: AsRef<str> + 'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a S>,
) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(wrong, name.as_ref()),
                name.as_ref(),
            )
        })
        .min()
        .filter(|&(distance, name)| distance <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn context(endpoint: &str) -> Context {
        Context {
            endpoints: vec![endpoint.parse().unwrap()],
            ca: "ca\n".to_owned(),
            cert: "cert\n".to_owned(),
            key: Zeroizing::new("s3cret\n".to_owned()),
        }
    }

    fn two() -> Contexts {
        Contexts {
            current: None,
            all: [
                ("demo".to_owned(), context("10.0.0.1")),
                ("prod".to_owned(), context("[::1]:7")),
            ]
            .into(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("osctl/config.yaml");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        let contexts = Contexts {
            current: Some("prod".to_owned()),
            ..two()
        };
        contexts.save(&path).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), contexts);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_context_is_picked_by_name_or_as_the_current_one() {
        let mut contexts = two();
        assert_eq!(contexts.pick(Some("prod")).unwrap().0, "prod");
        assert!(
            contexts
                .pick(None)
                .unwrap_err()
                .render(false)
                .contains("demo, prod")
        );
        contexts.current = Some("demo".to_owned());
        assert_eq!(contexts.pick(None).unwrap().0, "demo");
        let typo = contexts.pick(Some("pord")).unwrap_err().render(false);
        assert!(typo.contains("did you mean \"prod\"?"), "{typo}");
    }

    #[test]
    fn debug_and_errors_show_no_key() {
        assert!(!format!("{:?}", two()).contains("s3cret"));
        let text = two().to_text().unwrap().replace("ca:", "cax:");
        let error = Contexts::parse(Path::new("x"), &text)
            .unwrap_err()
            .render(false);
        assert!(
            error.contains("cax") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn the_nearest_name() {
        let names = ["link", "address", "service"];
        for (wrong, want) in [
            ("links", Some("link")),
            ("adress", Some("address")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, &names), want, "{wrong}");
        }
    }
}
