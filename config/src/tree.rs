//! A config as a tree of values, each of which knows where in the text it stands
//! and by which path a person calls it. Knows nothing of YAML's syntax and
//! nothing of what a config means.

use std::{borrow::Cow, fmt::Write as _, ops::Range};

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

impl NodeId {
    /// Its place in the tree's list, for tables beside the tree.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// All values of one document. Nodes are held in one list, so that a deep tree
/// costs no stack when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    /// Where a second document begins, in bytes: it was not read.
    pub(crate) rest: Option<usize>,
}

/// One value.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    /// How it hangs in the tree.
    pub(crate) step: Step<'a>,
    /// The bytes of the text that hold it, quotes and all.
    pub(crate) range: Range<usize>,
    /// What it is.
    pub(crate) value: Value<'a>,
}

/// How a node hangs in the tree.
#[derive(Clone, Debug)]
pub(crate) enum Step<'a> {
    /// The document itself.
    Root,
    /// The value of a key.
    Key {
        /// The map.
        parent: NodeId,
        /// The key, unescaped.
        name: Cow<'a, str>,
        /// The bytes of the text that hold the key.
        range: Range<usize>,
    },
    /// An item of a list.
    Index {
        /// The list.
        parent: NodeId,
        /// Counted from 0.
        index: usize,
    },
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    /// Something that was already reported; whoever meets it says nothing more.
    Bad,
    /// Text, a number, a boolean or nothing.
    Scalar {
        /// The text, unescaped.
        text: Cow<'a, str>,
        /// How it is written.
        style: Style,
    },
    /// A list.
    List(Vec<NodeId>),
    /// A map; every child's step is a [`Step::Key`], no name occurs twice.
    Map(Vec<NodeId>),
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// As is; may be a number, a boolean or nothing.
    Plain,
    /// In quotes; always text.
    Quoted,
    /// Below a `|` or `>`; always text.
    Block,
}

impl<'a> Tree<'a> {
    /// Adds a node. The caller adds it to its parent's children.
    pub(crate) fn add(&mut self, node: Node<'a>) -> NodeId {
        // The YAML module stops long before this count is reached.
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// One node.
    pub(crate) fn node(&self, id: NodeId) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// One node, to change.
    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node<'a> {
        &mut self.nodes[id.0 as usize]
    }

    /// The document itself.
    pub(crate) fn root(&self) -> Option<NodeId> {
        (!self.nodes.is_empty()).then_some(NodeId(0))
    }

    /// Every node.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The node that this one hangs below.
    pub(crate) fn parent(&self, id: NodeId) -> Option<NodeId> {
        match self.node(id).step {
            Step::Root => None,
            Step::Key { parent, .. } | Step::Index { parent, .. } => Some(parent),
        }
    }

    /// The key that this node is the value of.
    pub(crate) fn key(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).step {
            Step::Key { name, .. } => Some(name),
            Step::Root | Step::Index { .. } => None,
        }
    }

    /// The value of a key, where the node is a map that has it.
    pub(crate) fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        match &self.node(id).value {
            Value::Map(children) => children
                .iter()
                .copied()
                .find(|&child| self.key(child) == Some(key)),
            _ => None,
        }
    }

    /// Where a person looks for this value: a scalar itself, or else its key, or
    /// else its beginning.
    pub(crate) fn spot(&self, id: NodeId) -> Range<usize> {
        let node = self.node(id);
        match (&node.value, &node.step) {
            (Value::Scalar { .. } | Value::Bad, _) if !node.range.is_empty() => node.range.clone(),
            (_, Step::Key { range, .. }) => range.clone(),
            (Value::Map(children), _) => {
                match children.first().map(|&child| &self.node(child).step) {
                    Some(Step::Key { range, .. }) if range.start == node.range.start => {
                        range.clone()
                    }
                    _ => node.range.start..node.range.start + 1,
                }
            }
            _ => node.range.start..node.range.start + 1,
        }
    }

    /// Where the key of this value stands; as [`Tree::spot`] if it has none.
    pub(crate) fn key_spot(&self, id: NodeId) -> Range<usize> {
        match &self.node(id).step {
            Step::Key { range, .. } if !range.is_empty() => range.clone(),
            _ => self.spot(id),
        }
    }

    /// The path to this value: `network.links[0].addresses[1]`; empty for the document.
    pub(crate) fn path(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut at = Some(id);
        while let Some(id) = at {
            steps.push(&self.node(id).step);
            at = self.parent(id);
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key { name, .. } => push_key(&mut path, name),
                Step::Index { index, .. } => {
                    // Writing to a String cannot fail.
                    write!(path, "[{index}]").ok();
                }
            }
        }
        path
    }
}

/// Adds a key to a path; quoted where it could be taken for something else.
pub(crate) fn push_key(path: &mut String, key: &str) {
    let simple = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if simple && key.len() <= MAX_SHOWN {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push('[');
        path.push_str(&quote(key));
        path.push(']');
    }
}

/// Text of a config is shown up to this many characters.
const MAX_SHOWN: usize = 64;

/// A text of the config within a message: in quotes, on one line, not endless.
pub(crate) fn quote(text: &str) -> String {
    let mut shown = String::from("\"");
    for (count, c) in text.chars().enumerate() {
        if count == MAX_SHOWN {
            shown.push('…');
            break;
        }
        match c {
            '"' => shown.push_str("\\\""),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown.push('"');
    shown
}
