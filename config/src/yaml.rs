//! Bytes to a tree: what a text must be to be read at all, and the subset of
//! YAML that a config may use. The only module that knows the YAML parser.
//!
//! Anchors, aliases, tags, merge keys, directives and several documents are
//! refused: a value stands where it is used, so that a person can find it and a
//! secret can be starred out, and no short text can mean a long one.

use crate::{
    diagnostic::{Problem, Problems},
    tree::{Node, NodeId, Step, Style, Tree, Value, quote},
};
use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};
use std::{borrow::Cow, collections::HashMap, ops::Range};

/// A longer config is not read.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// A config with more values is not read. The longest sensible one has some thousands.
const MAX_NODES: usize = 50_000;
/// A config that nests more maps or lists is not read.
const MAX_DEPTH: usize = 64;

/// The text of a config, if it is one.
pub(crate) fn text<'a>(bytes: &'a [u8], problems: &mut Problems) -> Option<&'a str> {
    let refuse = |problems: &mut Problems, at: Option<usize>, message: String, hint: &str| {
        let problem = at.map_or_else(
            || Problem::whole(&*message),
            |at| Problem::error(at..at + 1, &*message),
        );
        problems.push(problem.hint(hint));
    };
    if bytes.len() > MAX_BYTES {
        let message = format!(
            "the config is {} bytes long, more than the {MAX_BYTES} that are read",
            bytes.len()
        );
        refuse(
            problems,
            None,
            message,
            "a machine config is some kilobytes; is this the right file?",
        );
        return None;
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        refuse(
            problems,
            None,
            "the config is UTF-16".to_owned(),
            "save it as UTF-8",
        );
        return None;
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        let message = "the config begins with a byte order mark".to_owned();
        refuse(problems, None, message, "save it as UTF-8 without BOM");
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let message = format!("the config is not UTF-8 text: byte 0x{:02x}", bytes[at]);
            refuse(
                problems,
                Some(at),
                message,
                "save it as UTF-8; is this the right file?",
            );
            return None;
        }
    };
    let control = |c: char| {
        (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) || c == '\u{feff}'
    };
    if let Some((at, c)) = text.char_indices().find(|&(_, c)| control(c)) {
        let message = if c == '\0' {
            "the config is not text: it holds a NUL byte".to_owned()
        } else {
            format!(
                "the config holds the control character U+{:04X}",
                u32::from(c)
            )
        };
        refuse(
            problems,
            Some(at),
            message,
            "a config is plain text; is this the right file?",
        );
        return None;
    }
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        refuse(
            problems,
            None,
            "the config is empty".to_owned(),
            "`osctl gen config` writes one to begin with",
        );
        return None;
    }
    Some(text)
}

/// The tree of a text; `None` where it cannot be read to its end.
pub(crate) fn tree<'a>(text: &'a str, problems: &mut Problems) -> Option<Tree<'a>> {
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder {
        text,
        tree: Tree::default(),
        open: Vec::new(),
        documents: 0,
        refused: Vec::new(),
    };
    for next in Parser::new_from_str_with_options(text, options) {
        match next {
            Ok((event, span)) => match builder.event(event, &span, problems) {
                Go::On => {}
                Go::Stop => break,
            },
            Err(error) => {
                problems.push(syntax(text, &error));
                return None;
            }
        }
    }
    if builder.tree.len() > MAX_NODES {
        let message = format!("the config holds more than {MAX_NODES} values");
        problems.push(Problem::whole(message));
        return None;
    }
    Some(builder.tree)
}

/// Whether to go on reading.
enum Go {
    On,
    Stop,
}

struct Builder<'a> {
    text: &'a str,
    tree: Tree<'a>,
    open: Vec<Open<'a>>,
    documents: usize,
    /// What was refused once is not reported again: one habit, one word.
    refused: Vec<Refused>,
}

/// What YAML has and a config has not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    Anchor,
    Alias,
    Tag,
}

/// A map or list that is not closed yet.
struct Open<'a> {
    node: NodeId,
    children: Vec<NodeId>,
    kind: Kind<'a>,
}

enum Kind<'a> {
    List,
    Map {
        key: Key<'a>,
        seen: HashMap<Cow<'a, str>, usize>,
    },
    /// A map or list where a key should be: read over.
    Unusable,
}

/// What a map waits for.
enum Key<'a> {
    /// A key.
    Next,
    /// The value of this key.
    Of(Cow<'a, str>, Range<usize>),
    /// The value of a key that cannot be used.
    OfUnusable,
}

/// Where a new node belongs.
enum Place<'a> {
    Step(Step<'a>),
    /// Read, but kept out of the tree.
    Nowhere,
    /// It is a key.
    Key,
}

impl<'a> Builder<'a> {
    fn event(&mut self, event: Event<'a>, span: &Span, problems: &mut Problems) -> Go {
        let range = self.range(span);
        if let Some(tag) = event.tag()
            && self.first(Refused::Tag)
        {
            let at = span
                .tag_span()
                .and_then(|span| span.byte_range())
                .unwrap_or(range.clone());
            let message = format!(
                "tags are not used in a config, remove {}",
                quote(&tag.original())
            );
            problems.push(Problem::error(at, message));
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.tree.rest = Some(range.start);
                    let problem = Problem::error(range, "a second document begins here")
                        .hint("a config is one document: one file for each machine");
                    problems.push(problem);
                    return Go::Stop;
                }
            }
            Event::Anchor(_, name) if self.first(Refused::Anchor) => {
                let message = format!(
                    "anchors are not used in a config, remove {}",
                    quote(&format!("&{name}"))
                );
                problems
                    .push(Problem::error(range, message).hint("write each value where it is used"));
            }
            Event::UnresolvedAlias(_) | Event::Alias(_) => {
                if self.first(Refused::Alias) {
                    let name = quote(self.text.get(range.clone()).unwrap_or_default());
                    let message = format!("aliases are not used in a config, found {name}");
                    problems.push(
                        Problem::error(range.clone(), message)
                            .hint("write each value where it is used"),
                    );
                }
                match self.place() {
                    Place::Key => self.unusable_key(),
                    place => {
                        self.add(place, range, Value::Bad, problems);
                    }
                }
            }
            Event::Scalar(text, style, _, _) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    _ => Style::Block,
                };
                match self.place() {
                    Place::Key if style == Style::Plain && text == "<<" => {
                        let problem =
                            Problem::error(range, "merge keys (<<) are not used in a config")
                                .hint("write the keys out");
                        problems.push(problem);
                        self.unusable_key();
                    }
                    Place::Key => {
                        if let Some(Open {
                            kind: Kind::Map { key, .. },
                            ..
                        }) = self.open.last_mut()
                        {
                            *key = Key::Of(text, range);
                        }
                    }
                    place => {
                        // Nothing at all stands nowhere: whoever speaks of it points at its key.
                        let plain_nothing = style == Style::Plain && text.is_empty();
                        let range = if plain_nothing {
                            range.start..range.start
                        } else {
                            range
                        };
                        self.add(place, range, Value::Scalar { text, style }, problems);
                    }
                }
            }
            Event::SequenceStart(..) => self.begin(range, Kind::List, problems),
            Event::MappingStart(..) => {
                self.begin(
                    range,
                    Kind::Map {
                        key: Key::Next,
                        seen: HashMap::new(),
                    },
                    problems,
                );
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(range.end),
            _ => {}
        }
        if self.tree.len() > MAX_NODES {
            Go::Stop
        } else {
            Go::On
        }
    }

    /// The bytes of a span. The parser gives them for text input; an empty
    /// range at the beginning is the answer to a bug there, not a panic.
    fn range(&self, span: &Span) -> Range<usize> {
        match span.byte_range() {
            Some(range) if self.text.get(range.clone()).is_some() => range,
            _ => 0..0,
        }
    }

    /// Whether this is refused for the first time.
    fn first(&mut self, what: Refused) -> bool {
        let first = !self.refused.contains(&what);
        if first {
            self.refused.push(what);
        }
        first
    }

    /// Where the next node belongs. Takes the key that waits for it.
    fn place(&mut self) -> Place<'a> {
        match self.open.last_mut() {
            None => Place::Step(Step::Root),
            Some(Open {
                node,
                children,
                kind: Kind::List,
            }) => Place::Step(Step::Index {
                parent: *node,
                index: children.len(),
            }),
            Some(Open {
                node,
                kind: Kind::Map { key, .. },
                ..
            }) => match std::mem::replace(key, Key::Next) {
                Key::Next => Place::Key,
                Key::Of(name, range) => Place::Step(Step::Key {
                    parent: *node,
                    name,
                    range,
                }),
                Key::OfUnusable => Place::Nowhere,
            },
            Some(Open {
                kind: Kind::Unusable,
                ..
            }) => Place::Nowhere,
        }
    }

    /// The key that was just read cannot be used; its value is read over.
    fn unusable_key(&mut self) {
        if let Some(Open {
            kind: Kind::Map { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Key::OfUnusable;
        }
    }

    fn add(
        &mut self,
        place: Place<'a>,
        range: Range<usize>,
        value: Value<'a>,
        problems: &mut Problems,
    ) -> NodeId {
        let Place::Step(step) = place else {
            // Kept out of the tree: no parent lists it.
            return self.tree.add(Node {
                step: Step::Root,
                range,
                value: Value::Bad,
            });
        };
        let mut duplicate = None;
        if let (
            Step::Key { name, range, .. },
            Some(Open {
                kind: Kind::Map { seen, .. },
                ..
            }),
        ) = (&step, self.open.last_mut())
        {
            match seen.get(name) {
                Some(&first) => duplicate = Some((name.clone(), range.clone(), first)),
                None => {
                    seen.insert(name.clone(), range.start);
                }
            }
        }
        let listed = !matches!(step, Step::Root);
        let id = self.tree.add(Node { step, range, value });
        if let Some((name, range, first)) = duplicate {
            let (text, tree) = (self.text, &self.tree);
            problems.push_with(|| {
                let line = 1 + text.as_bytes()[..first]
                    .iter()
                    .filter(|&&b| b == b'\n')
                    .count();
                Problem::error(
                    range,
                    format!("the key {} is already given on line {line}", quote(&name)),
                )
                .path(tree.path(id))
                .hint("keep one of the two")
            });
        } else if listed && let Some(open) = self.open.last_mut() {
            open.children.push(id);
        }
        id
    }

    fn begin(&mut self, range: Range<usize>, kind: Kind<'a>, problems: &mut Problems) {
        let value = match kind {
            Kind::List => Value::List(Vec::new()),
            _ => Value::Map(Vec::new()),
        };
        match self.place() {
            Place::Key => {
                let problem = Problem::error(range.clone(), "a map or list cannot be a key")
                    .hint("is a value missing its quotes, or a colon its space?");
                problems.push(problem);
                self.unusable_key();
                let node = self.add(Place::Nowhere, range, value, problems);
                self.open.push(Open {
                    node,
                    children: Vec::new(),
                    kind: Kind::Unusable,
                });
            }
            Place::Nowhere => {
                let node = self.add(Place::Nowhere, range, value, problems);
                self.open.push(Open {
                    node,
                    children: Vec::new(),
                    kind: Kind::Unusable,
                });
            }
            place @ Place::Step(_) => {
                let node = self.add(place, range, value, problems);
                self.open.push(Open {
                    node,
                    children: Vec::new(),
                    kind,
                });
            }
        }
    }

    fn end(&mut self, end: usize) {
        if let Some(open) = self.open.pop() {
            let node = self.tree.node_mut(open.node);
            node.range.end = end.max(node.range.start);
            match &mut node.value {
                Value::List(children) | Value::Map(children) => *children = open.children,
                Value::Bad | Value::Scalar { .. } => {}
            }
        }
    }
}

/// Why a text is not YAML, in words for whoever wrote it.
fn syntax(text: &str, error: &ScanError) -> Problem {
    use ErrorKind as E;
    let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
    let spaces = "YAML is indented with spaces";
    let (message, hint) = match error.kind() {
        E::TabNotAllowed
        | E::TabInBlockIndentation
        | E::TabInIndentation
        | E::TabAtBlockScalarStart => ("a tab is used for indentation".to_owned(), spaces),
        E::TabInPlainScalar => ("a tab stands where a space should".to_owned(), spaces),
        E::DirectiveDisallowed => (
            "YAML directives are not used in a config".to_owned(),
            "remove the line that begins with %",
        ),
        E::RecursionLimitExceeded => (
            format!("maps and lists are nested more than {MAX_DEPTH} deep"),
            "no part of a config nests that deep",
        ),
        E::UnclosedQuotedScalar => (
            "a quote is opened and never closed".to_owned(),
            "add the closing quote",
        ),
        E::UnclosedFlowCollection { open } => (
            format!("a {open} is opened and never closed"),
            "add the closing bracket",
        ),
        E::MismatchedFlowCollectionEnd { open, close } => (
            format!("a {open} is opened, and a {close} would close it"),
            "close the brackets in the order in which they are opened",
        ),
        E::UnexpectedEofFlowSequence => (
            "a [ is opened and never closed".to_owned(),
            "add the closing bracket",
        ),
        E::UnexpectedEofFlowMapping | E::UnexpectedEofImplicitFlowMapping => (
            "a { is opened and never closed".to_owned(),
            "add the closing bracket",
        ),
        E::MappingValueNotAllowed | E::SimpleKeyExpected | E::InvalidSimpleKey => (
            "the line does not fit into the lines above".to_owned(),
            "check its indentation and its colons; a text that holds \": \" needs quotes",
        ),
        E::InvalidIndentation
        | E::ExpectedBlockMappingKey
        | E::ExpectedBlockSequenceEntry
        | E::InvalidFlowScalarIndent
        | E::InvalidQuotedScalarIndent
        | E::InvalidBlockScalarIndent
        | E::BlockSequenceEntryNotAllowed => (
            "the indentation does not fit the lines above".to_owned(),
            "keys of the same map begin in the same column",
        ),
        kind => (format!("not YAML: {kind}"), ""),
    };
    let problem = Problem::error(at..at, message);
    if hint.is_empty() {
        problem
    } else {
        problem.hint(hint)
    }
}
