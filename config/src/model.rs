//! What can be written in a config, as tables: every key, what its value may be,
//! what it means, and what it takes to apply a change of it. The tables are made
//! where the fields are declared, by `object!` in `document/`; whatever has to
//! know all fields (the reader, patches, the schema, the reference) follows them,
//! so that a new field is in all of these at once.

/// What a value may be.
#[derive(Debug)]
pub enum Shape {
    /// Text.
    Text,
    /// Text that is never shown.
    Secret,
    /// `true` or `false`.
    Bool,
    /// A whole number that is not negative and fits 32 bits.
    Number,
    /// Text, or a number as it is written.
    TextOrNumber,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of the same.
    List(&'static Shape),
    /// Any keys, with values of the same.
    Map(&'static Shape),
    /// Fixed keys.
    Object(&'static Table),
    /// Whatever there is.
    Any,
}

/// The fields of an object.
#[derive(Debug)]
pub struct Table {
    /// What the object is, as its declaration says it.
    pub(crate) docs: &'static str,
    /// In a list of such objects, what tells them apart: two entries are the same
    /// one if the first of these keys that is there has the same value. Empty
    /// where the list is one value.
    pub by: &'static [&'static str],
    /// In the order in which a person would write them.
    pub fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its key.
    pub key: &'static str,
    /// What its value may be.
    pub shape: &'static Shape,
    /// Whether it must be there.
    pub required: bool,
    /// A value, as YAML.
    pub example: Option<&'static str>,
    /// What a change takes; where nothing is said, what the object around it takes.
    pub takes: Option<Takes>,
    docs: &'static str,
}

/// What it takes to apply a change of a field. More comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    /// Nothing: the running machine follows.
    Nothing,
    /// The orchestrator is restarted; pods keep running.
    OrchestratorRestart,
    /// The machine is restarted.
    Reboot,
}

impl Takes {
    /// In words, to follow "applying a change: ".
    pub fn words(self) -> &'static str {
        match self {
            Takes::Nothing => "live",
            Takes::OrchestratorRestart => "restarts the orchestrator",
            Takes::Reboot => "at the next reboot",
        }
    }
}

impl Shape {
    /// What may be written, in words: `list of text`.
    pub fn words(&self) -> String {
        match self {
            Shape::Text => "text".to_owned(),
            Shape::Secret => "secret text".to_owned(),
            Shape::Bool => "true or false".to_owned(),
            Shape::Number => "number".to_owned(),
            Shape::TextOrNumber => "text or number".to_owned(),
            Shape::Choice(words) => format!("one of {}", words.join(", ")),
            Shape::List(item) => format!("list of {}", item.words()),
            Shape::Map(value) => format!("map of {}", value.words()),
            Shape::Object(_) => "map".to_owned(),
            Shape::Any => "anything".to_owned(),
        }
    }
}

impl Table {
    /// What the object is.
    pub fn meaning(&self) -> String {
        sentences(self.docs).0
    }

    /// The field of a key.
    pub fn field(&self, key: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.key == key)
    }
}

impl Field {
    /// A field that may be left out.
    pub(crate) const fn new(key: &'static str, shape: &'static Shape, docs: &'static str) -> Self {
        Field {
            key,
            shape,
            required: false,
            example: None,
            takes: None,
            docs,
        }
    }

    /// It must be there.
    pub(crate) const fn required(self) -> Self {
        Field {
            required: true,
            ..self
        }
    }

    /// With a value to show, as YAML.
    pub(crate) const fn example(self, yaml: &'static str) -> Self {
        Field {
            example: Some(yaml),
            ..self
        }
    }

    /// With what a change takes.
    pub(crate) const fn takes(self, takes: Takes) -> Self {
        Field {
            takes: Some(takes),
            ..self
        }
    }

    /// What it means, without its default.
    pub fn meaning(&self) -> String {
        sentences(self.docs).0
    }

    /// What counts where it is not written: the sentence "Default: …" of its
    /// declaration.
    pub fn default(&self) -> Option<String> {
        sentences(self.docs).1
    }
}

/// A doc comment as prose, and the default that it names.
fn sentences(docs: &str) -> (String, Option<String>) {
    const DEFAULT: &str = "Default: ";
    let prose = docs.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((before, after)) = prose.split_once(DEFAULT) else {
        return (prose, None);
    };
    let (default, rest) = match after.split_once(". ") {
        Some((default, rest)) => (default, rest),
        None => (after.trim_end_matches('.'), ""),
    };
    let meaning = [before.trim(), rest.trim()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    (meaning, Some(default.to_owned()))
}

/// Where a path leads in the model, and what is found there.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The field whose value it is, unless it is the config itself. An item of a
    /// list and a value of a map belong to the list's and the map's field.
    pub field: Option<&'static Field>,
    /// What may be written there.
    pub shape: &'static Shape,
    /// What a change of it takes.
    pub takes: Takes,
}

impl Found {
    /// The config itself.
    pub fn root() -> Found {
        Found {
            field: None,
            shape: super::model(),
            takes: Takes::Nothing,
        }
    }

    /// What is below a key. Lists are passed over: `network.links.name` is the
    /// name of each link.
    pub fn below(self, key: &str) -> Option<Found> {
        match self.shape {
            Shape::List(item) => Found {
                shape: item,
                ..self
            }
            .below(key),
            Shape::Map(value) => Some(Found {
                shape: value,
                ..self
            }),
            Shape::Any => Some(self),
            Shape::Object(table) => table.field(key).map(|field| Found {
                field: Some(field),
                shape: field.shape,
                takes: field.takes.unwrap_or(self.takes),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_doc_comment_says() {
        for (docs, meaning, default) in [
            (" Lower wins. Default: 1024.\n", "Lower wins.", Some("1024")),
            (
                " Servers. Default: four of pool.ntp.org. An empty\n list sets none.\n",
                "Servers. An empty list sets none.",
                Some("four of pool.ntp.org"),
            ),
            (" PEM.\n", "PEM.", None),
        ] {
            assert_eq!(
                sentences(docs),
                (meaning.to_owned(), default.map(str::to_owned)),
                "{docs}"
            );
        }
    }

    /// Every field of the model, by its path.
    fn every_field(shape: &'static Shape, path: &str, found: &mut Vec<(String, &'static Field)>) {
        match shape {
            Shape::List(item) | Shape::Map(item) => every_field(item, path, found),
            Shape::Object(table) => {
                for field in table.fields {
                    let path = format!("{path}.{}", field.key);
                    found.push((path.clone(), field));
                    every_field(field.shape, &path, found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_field_says_what_it_is() {
        let mut fields = Vec::new();
        every_field(crate::model(), "", &mut fields);
        for (path, field) in fields {
            assert!(
                field.meaning().ends_with(['.', '`']),
                "{path}: {}",
                field.meaning()
            );
            let words = field.docs.matches("Default:").count();
            assert_eq!(words, usize::from(field.default().is_some()), "{path}");
            assert!(
                !(field.required && words > 0),
                "{path} is required and has a default"
            );
        }
    }

    #[test]
    fn what_tells_entries_apart_is_a_field_of_theirs() {
        let mut fields = Vec::new();
        every_field(crate::model(), "", &mut fields);
        for (path, field) in fields {
            if let Shape::List(Shape::Object(table)) = field.shape {
                for key in table.by {
                    assert!(table.field(key).is_some(), "{path} has no {key}");
                }
            }
        }
    }

    #[test]
    fn a_path_leads_to_a_field() {
        let at = |path: &str| {
            path.split('.')
                .try_fold(Found::root(), |found, key| found.below(key))
        };
        assert_eq!(at("network.links.name").unwrap().field.unwrap().key, "name");
        assert!(matches!(
            at("machine.sysctls").unwrap().shape,
            Shape::Map(_)
        ));
        assert_eq!(
            at("orchestrator.settings.disable").unwrap().takes,
            Takes::OrchestratorRestart
        );
        assert!(at("machine.nowhere").is_none());
    }
}
