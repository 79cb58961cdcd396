//! Merging a node's kubeconfig into the person's own. Pure: values in, values out.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

/// The cluster and the user of one kubeconfig.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    cluster: Value,
    user: Value,
}

/// What merging did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merged {
    /// The name was free.
    Added,
    /// Something of that name was replaced.
    Replaced,
}

impl Access {
    /// Takes the cluster and the user of the current context (or of the only one).
    pub(crate) fn of(kubeconfig: &Value) -> Result<Access> {
        let invalid = || Error::failed("the node's kubeconfig makes no sense");
        let current = kubeconfig["current-context"].as_str();
        let context = match current {
            Some(name) => find(kubeconfig, "contexts", name),
            None => kubeconfig["contexts"].get(0),
        };
        let context = &context.ok_or_else(invalid)?["context"];
        let part = |list: &str, key: &str| {
            let name = context[key].as_str()?;
            Some(find(kubeconfig, list, name)?[key].clone()).filter(Value::is_object)
        };
        Ok(Access {
            cluster: part("clusters", "cluster").ok_or_else(invalid)?,
            user: part("users", "user").ok_or_else(invalid)?,
        })
    }

    /// The cluster's URL.
    pub(crate) fn server(&self) -> &str {
        self.cluster["server"]
            .as_str()
            .unwrap_or("an unnamed server")
    }

    /// Puts cluster, user and context of this name into a kubeconfig, which may be
    /// `null`. Everything else stays. What is there under the name for another
    /// server is only replaced if `force`.
    pub(crate) fn merge(&self, into: &mut Value, name: &str, force: bool) -> Result<Merged> {
        if into.is_null() {
            *into = json!({ "apiVersion": "v1", "kind": "Config", "preferences": {} });
        }
        let Value::Object(config) = into else {
            return Err(Error::input("this is not a kubeconfig: it is no map"));
        };
        let there = |config: &Map<String, Value>, list: &str| {
            config.get(list).and_then(|list| named(list, name)).cloned()
        };
        let cluster = there(config, "clusters");
        let other = cluster
            .as_ref()
            .and_then(|it| it["cluster"]["server"].as_str());
        if let Some(other) = other.filter(|&other| other != self.server())
            && !force
        {
            return Err(
                Error::input(format!("there is a cluster {name:?} already, at {other}"))
                    .hint("--name gives this one another name, --force replaces that one"),
            );
        }
        let user = there(config, "users");
        if cluster.is_none() && user.is_some() && !force {
            return Err(Error::input(format!(
                "there is a user {name:?} already, of another cluster"
            ))
            .hint("--name gives this one another name, --force replaces that one"));
        }
        // A namespace that the person chose is kept.
        let mut context = json!({ "cluster": name, "user": name });
        if let Some(old) = there(config, "contexts")
            && old["context"]["cluster"] == name
            && let Some(namespace) = old["context"].get("namespace")
        {
            context["namespace"] = namespace.clone();
        }
        put(config, "clusters", name, "cluster", self.cluster.clone())?;
        put(config, "users", name, "user", self.user.clone())?;
        put(config, "contexts", name, "context", context)?;
        Ok(if cluster.is_some() || user.is_some() {
            Merged::Replaced
        } else {
            Merged::Added
        })
    }
}

/// Makes it the current context, if there is none or if `force`; says whether it is.
pub(crate) fn make_current(config: &mut Value, name: &str, force: bool) -> bool {
    let current = config["current-context"].as_str().unwrap_or_default();
    if force || current.is_empty() {
        config["current-context"] = json!(name);
        return true;
    }
    current == name
}

fn find<'a>(config: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    named(&config[list], name)
}

fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry["name"] == name)
}

fn put(
    config: &mut Map<String, Value>,
    list: &str,
    name: &str,
    key: &str,
    value: Value,
) -> Result<()> {
    let entry = json!({ "name": name, key: value });
    let all = config.entry(list).or_insert(Value::Null);
    if all.is_null() {
        *all = json!([]);
    }
    let Value::Array(all) = all else {
        return Err(Error::input(format!(
            "this is not a kubeconfig: its {list} are no list"
        )));
    };
    match all.iter_mut().find(|entry| entry["name"] == name) {
        Some(old) => *old = entry,
        None => all.push(entry),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As K3s writes it: everything is called "default".
    fn fetched(server: &str) -> Access {
        Access::of(&json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "default",
            "clusters": [{"name": "default", "cluster": {"server": server, "certificate-authority-data": "QQ=="}}],
            "users": [{"name": "default", "user": {"client-key-data": "Qg=="}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        }))
        .unwrap()
    }

    #[test]
    fn into_nothing() {
        let mut config = Value::Null;
        assert_eq!(
            fetched("https://a")
                .merge(&mut config, "demo", false)
                .unwrap(),
            Merged::Added
        );
        assert!(make_current(&mut config, "demo", false));
        assert_eq!(
            config,
            json!({
                "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "demo",
                "clusters": [{"name": "demo", "cluster": {"server": "https://a", "certificate-authority-data": "QQ=="}}],
                "users": [{"name": "demo", "user": {"client-key-data": "Qg=="}}],
                "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
            })
        );
    }

    #[test]
    fn what_is_there_stays() {
        let before = json!({
            "current-context": "work", "extensions": [1], "users": null,
            "clusters": [{"name": "work", "cluster": {"server": "https://work"}}],
            "contexts": [{"name": "work", "context": {"cluster": "work", "user": "me", "namespace": "x"}}],
        });
        let mut config = before.clone();
        fetched("https://a")
            .merge(&mut config, "demo", false)
            .unwrap();
        assert!(!make_current(&mut config, "demo", false));
        assert_eq!(config["current-context"], "work");
        assert_eq!(config["extensions"], before["extensions"]);
        assert_eq!(config["clusters"][0], before["clusters"][0]);
        assert_eq!(config["contexts"][0], before["contexts"][0]);
        assert_eq!(config["clusters"][1]["name"], "demo");
        assert!(make_current(&mut config, "demo", true));
    }

    #[test]
    fn merging_twice_changes_nothing_but_the_answer() {
        let mut config = Value::Null;
        fetched("https://a")
            .merge(&mut config, "demo", false)
            .unwrap();
        config["contexts"][0]["context"]["namespace"] = json!("apps");
        let before = config.clone();
        assert_eq!(
            fetched("https://a")
                .merge(&mut config, "demo", false)
                .unwrap(),
            Merged::Replaced
        );
        assert_eq!(config, before);
    }

    #[test]
    fn somebody_elses_cluster_is_not_replaced_by_accident() {
        let mut config = Value::Null;
        fetched("https://a")
            .merge(&mut config, "demo", false)
            .unwrap();
        let before = config.clone();
        let error = fetched("https://b")
            .merge(&mut config, "demo", false)
            .unwrap_err();
        assert!(error.render(false).contains("https://a"));
        assert_eq!(config, before);
        fetched("https://b")
            .merge(&mut config, "demo", true)
            .unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://b");
        let mut users = json!({"users": [{"name": "demo", "user": {}}]});
        assert!(
            fetched("https://b")
                .merge(&mut users, "demo", false)
                .is_err()
        );
    }

    #[test]
    fn what_is_no_kubeconfig_is_refused() {
        for mut wrong in [json!([]), json!("text"), json!({"clusters": {}})] {
            assert!(
                fetched("https://a")
                    .merge(&mut wrong, "demo", false)
                    .is_err()
            );
        }
        for wrong in [
            json!(null),
            json!({}),
            json!({"current-context": "x", "contexts": []}),
        ] {
            assert!(Access::of(&wrong).is_err());
        }
    }
}
