//! `osctl get`.

use crate::{
    age,
    app::{App, Maintenance, each},
    client::Session,
    contexts::nearest,
    error::{Error, Result},
    output::{self, Format, FormatArg},
    resource,
};
use clap::Args;
use keelson_api::v1::{
    GetConfigRequest, GetConfigResponse, GetRequest, KindsRequest, ListRequest, Resource,
    WatchRequest, watch_response::Type,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// The kind that is not a resource: the stored config.
const CONFIG: &str = "config";

/// Show what a node knows of itself
///
/// Without a kind it lists the kinds. `osctl get config` shows the stored machine
/// config, its secrets starred out.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What to show, for example `address`; `config` is the machine config
    kind: Option<String>,

    /// Only the one of this name
    #[arg(requires = "kind")]
    name: Option<String>,

    /// Go on and show each change
    #[arg(short, long, requires = "kind")]
    watch: bool,

    /// With `config`: show its secrets too; needs the role os:admin
    #[arg(long)]
    show_secrets: bool,

    #[command(flatten)]
    maintenance: Maintenance,

    #[command(flatten)]
    format: FormatArg,
}

impl Get {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        if self.show_secrets && self.kind.as_deref() != Some(CONFIG) {
            return Err(Error::input("--show-secrets is for `osctl get config`"));
        }
        match self.kind.as_deref() {
            None => self.kinds(app).await,
            Some(CONFIG) => self.config(app).await,
            Some(kind) if self.watch => {
                let session = Session::open(&app.target(&self.maintenance)?).await?;
                self.watch(&session, kind).await
            }
            Some(kind) => self.resources(app, kind).await,
        }
    }

    async fn kinds(&self, app: &App) -> Result<()> {
        let targets = app.targets_or_insecure(&self.maintenance)?;
        let (nodes, result) = each(&targets, async |session| {
            let mut kinds = kinds(&session).await?;
            kinds.push(CONFIG.to_owned());
            Ok(kinds)
        })
        .await;
        let mut all: Vec<_> = nodes.into_iter().flat_map(|(_, kinds)| kinds).collect();
        all.sort();
        all.dedup();
        if !all.is_empty() {
            output::data(self.format.format, &all, || {
                let rows: Vec<_> = all.iter().map(|kind| vec![kind.clone()]).collect();
                output::table(&["kind"], &rows)
            })?;
        }
        result
    }

    async fn config(&self, app: &App) -> Result<()> {
        if self.watch || self.name.is_some() {
            return Err(
                Error::input("there is one config, and it is not watched").hint("osctl get config")
            );
        }
        let session = Session::open(&app.target(&self.maintenance)?).await?;
        let request = GetConfigRequest {
            show_secrets: self.show_secrets,
        };
        let mut machine = session.machine();
        let got = session
            .call("get the config", machine.get_config(request))
            .await?;
        if self.format.format == Format::Table {
            told(&got);
            return output::bytes(&got.config);
        }
        let mut data = json!({
            "generation": got.generation,
            "applied": age::rfc3339(got.applied.as_ref()),
            "source": got.source,
            "config": String::from_utf8_lossy(&got.config),
        });
        if let Some(tried) = &got.tried {
            let until = age::rfc3339(tried.until.as_ref());
            data["tried"] = json!({"until": until, "source": tried.source});
        }
        if let Some(staged) = &got.staged {
            data["staged"] = json!({
                "generation": staged.generation,
                "applied": age::rfc3339(staged.applied.as_ref()),
                "source": staged.source,
            });
        }
        output::data(self.format.format, &data, String::new)
    }

    async fn resources(&self, app: &App, kind: &str) -> Result<()> {
        let targets = app.targets_or_insecure(&self.maintenance)?;
        let (nodes, result) = each(&targets, async |session| {
            let kind = find_kind(&session, kind).await?;
            let mut client = session.resources();
            match &self.name {
                None => {
                    let what = format!("list {kind}");
                    let list = client.list(ListRequest { kind });
                    Ok(session.call(&what, list).await?.resources)
                }
                Some(name) => {
                    let what = format!("get {kind} {name}");
                    let get = client.get(GetRequest {
                        kind,
                        name: name.clone(),
                    });
                    Ok(session
                        .call(&what, get)
                        .await?
                        .resource
                        .into_iter()
                        .collect())
                }
            }
        })
        .await;
        if !nodes.is_empty() {
            self.show(&nodes, targets.len() > 1)?;
        }
        result
    }

    fn show(&self, nodes: &[(crate::client::Endpoint, Vec<Resource>)], many: bool) -> Result<()> {
        let data: Vec<Value> = nodes
            .iter()
            .flat_map(|(node, resources)| resources.iter().map(move |it| (node, it)))
            .map(|(node, it)| {
                let mut value = resource::json_of(it);
                if many {
                    value["node"] = json!(node.to_string());
                }
                value
            })
            .collect();
        // One that was asked for by name is no list.
        let data = match <[Value; 1]>::try_from(data) {
            Ok([value]) if self.name.is_some() && !many => value,
            Ok(list) => json!(list),
            Err(list) => json!(list),
        };
        output::data(self.format.format, &data, || {
            let all: Vec<_> = nodes
                .iter()
                .flat_map(|(_, resources)| resources.clone())
                .collect();
            let names = nodes.iter().flat_map(|(node, resources)| {
                std::iter::repeat_n(node.to_string(), resources.len())
            });
            let mut headers = resource::headers(&all);
            let mut rows = resource::rows(&all, OffsetDateTime::now_utc());
            if many {
                headers.insert(0, "node".to_owned());
                rows.iter_mut()
                    .zip(names)
                    .for_each(|(row, name)| row.insert(0, name));
            }
            output::table(&headers, &rows)
        })
    }

    async fn watch(&self, session: &Session, kind: &str) -> Result<()> {
        let kind = find_kind(session, kind).await?;
        let what = format!("watch {kind}");
        let mut client = session.resources();
        let mut stream = session
            .call(&what, client.watch(WatchRequest { kind }))
            .await?;
        let mut known: BTreeMap<String, Resource> = BTreeMap::new();
        let mut synced = false;
        while let Some(change) = session.next(&what, &mut stream, None).await? {
            if change.r#type() == Type::Synced {
                synced = true;
                if self.format.format == Format::Table {
                    let all: Vec<_> = known.values().cloned().collect();
                    let rows = resource::rows(&all, OffsetDateTime::now_utc());
                    output::bytes(output::table(&resource::headers(&all), &rows).as_bytes())?;
                }
                continue;
            }
            let r#type = change.r#type();
            let Some(it) = change.resource else { continue };
            if self.name.as_ref().is_some_and(|name| *name != it.name) {
                continue;
            }
            known.insert(it.name.clone(), it.clone());
            let event = json!({ "type": word(r#type), "resource": resource::json_of(&it) });
            match self.format.format {
                Format::Json => output::line(event.to_string())?,
                Format::Yaml => {
                    output::line(format!("---\n{}", crate::yaml::to_text(&event)?.trim_end()))?
                }
                Format::Table if synced => output::line(changed_row(&known, &it.name, r#type))?,
                Format::Table => {}
            }
            if r#type == Type::Removed {
                known.remove(&it.name);
            }
        }
        Ok(())
    }
}

/// Says on stderr whose config it is, so that the config itself can go into a file.
fn told(got: &GetConfigResponse) {
    let stored = |generation, applied, source: &str| {
        let applied = age::rfc3339(applied);
        format!("generation {generation}, stored {applied} by {source}")
    };
    output::note(stored(got.generation, got.applied.as_ref(), &got.source));
    if let Some(tried) = &got.tried {
        output::note(format!(
            "another one, by {}, is tried in its place until {}: osctl apply-config --confirm",
            tried.source,
            age::rfc3339(tried.until.as_ref())
        ));
    }
    if let Some(staged) = &got.staged {
        output::note(format!(
            "{}, waits for the next boot",
            stored(staged.generation, staged.applied.as_ref(), &staged.source)
        ));
    }
}

/// The changed resource's row, in line with the rows of all the others.
fn changed_row(known: &BTreeMap<String, Resource>, name: &str, r#type: Type) -> String {
    let all: Vec<_> = known.values().cloned().collect();
    let mut rows = resource::rows(&all, OffsetDateTime::now_utc());
    let Some(index) = known.keys().position(|key| key == name) else {
        return String::new();
    };
    if r#type == Type::Removed {
        // The phase stands before age and message.
        let phase = rows[index].len() - 3;
        rows[index][phase] = word(r#type).to_owned();
    }
    let table = output::table(&resource::headers(&all), &rows);
    table.lines().nth(index + 1).unwrap_or_default().to_owned()
}

fn word(r#type: Type) -> &'static str {
    match r#type {
        Type::Unspecified => "unknown",
        Type::Added => "added",
        Type::Updated => "updated",
        Type::Removed => "removed",
        Type::Synced => "synced",
    }
}

async fn kinds(session: &Session) -> Result<Vec<String>> {
    let mut client = session.resources();
    Ok(session
        .call("list the kinds", client.kinds(KindsRequest {}))
        .await?
        .kinds)
}

/// The node's kind for what the person wrote: the plural is understood.
async fn find_kind(session: &Session, written: &str) -> Result<String> {
    let kinds = kinds(session).await?;
    let singular = [
        Some(written),
        written.strip_suffix("es"),
        written.strip_suffix('s'),
    ];
    if let Some(kind) = singular
        .into_iter()
        .flatten()
        .find(|it| kinds.iter().any(|kind| kind == it))
    {
        return Ok(kind.to_owned());
    }
    let names: Vec<_> = kinds.iter().map(String::as_str).chain([CONFIG]).collect();
    let error = Error::input(format!("{} has no kind {written:?}", session.endpoint()));
    Err(match nearest(written, &names) {
        Some(kind) => error.hint(format!("did you mean {kind:?}?")),
        None => error.hint(format!("there are: {}", names.join(", "))),
    })
}
