//! Kernel modules: the index that depmod writes, and loading by name or alias.
//! Parsing is pure; only [`Index::open`], [`loaded`], [`modaliases`] and the `load*`
//! functions touch the machine. Nothing here unloads a module.

use rustix::fs::{Mode, OFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// `MODULE_INIT_COMPRESSED_FILE` of finit_module(2): the kernel unpacks the file.
const COMPRESSED_FILE: i32 = 4;

/// What modules are given whatever else is asked for: without it each of these two brings a
/// link of its own, by the very name that a person would choose first.
const PARAMETERS: &[(&str, &str)] = &[("bonding", "max_bonds=0"), ("dummy", "numdummies=0")];

/// How deep dependencies may nest before the index is taken to be broken.
const MAX_DEPTH: u32 = 32;

/// Why a module was not loaded.
#[derive(Debug, Error)]
pub enum Error {
    /// An index file could not be read.
    #[error("cannot read {}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No module and no alias of that name is in the index.
    #[error("no module or alias named {0}")]
    Unknown(String),
    /// The module's file could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the module; dmesg says more.
    #[error("the kernel refused module {name}")]
    Refused {
        /// The module.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A parameter holds a NUL byte.
    #[error("module {0}: a parameter holds a NUL byte")]
    Parameter(String),
    /// Dependencies nest without end.
    #[error("module {0}: its dependencies nest too deep")]
    Nested(String),
}

/// A module's file and what must be loaded before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The file, relative to the modules directory.
    pub path: String,
    /// Names of the modules that it needs, in the order of loading.
    pub needs: Vec<String>,
}

/// What `softdep` asks to be loaded around a module (modprobe.d(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Soft {
    /// Names or aliases to be loaded before it.
    pub before: Vec<String>,
    /// Names or aliases to be loaded after it.
    pub after: Vec<String>,
}

/// An alias pattern and the module it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// A shell pattern, normalised.
    pub pattern: String,
    /// The module's name.
    pub module: String,
}

/// What was loaded for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// At least one module was inserted.
    Inserted,
    /// Everything was there before, or is part of the kernel.
    Present,
}

/// What modules are loaded with, whoever asks for them: by normalised name, for each
/// parameter its value. A value holds no quote.
pub type Parameters = BTreeMap<String, BTreeMap<String, String>>;

/// Parameters as finit_module(2) takes them: `key=value` words, values with white space
/// in quotes.
pub fn words(parameters: &BTreeMap<String, String>) -> String {
    let word = |(key, value): (&String, &String)| match value.contains(char::is_whitespace) {
        true => format!("{key}=\"{value}\""),
        false => format!("{key}={value}"),
    };
    parameters.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// A module's name with `-` written as `_`, as the kernel has it.
pub fn normalize(name: &str) -> String {
    let mut inside = false;
    name.chars()
        .map(|c| {
            inside = match c {
                '[' => true,
                ']' => false,
                _ => inside,
            };
            if c == '-' && !inside { '_' } else { c }
        })
        .collect()
}

/// The name of the module in a file: its base name up to `.ko`, normalised.
pub fn name_of(path: &str) -> String {
    let base = path.rsplit('/').next().unwrap_or(path);
    normalize(base.split(".ko").next().unwrap_or(base))
}

/// Parses `modules.dep`: `path: path path…`, the deepest dependency last.
pub fn parse_dep(text: &str) -> BTreeMap<String, Entry> {
    text.lines()
        .filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let path = path.trim();
            (!path.is_empty()).then(|| {
                let needs = needs.split_whitespace().rev().map(name_of).collect();
                (
                    name_of(path),
                    Entry {
                        path: path.to_owned(),
                        needs,
                    },
                )
            })
        })
        .collect()
}

/// Parses `modules.alias`: `alias PATTERN MODULE`.
pub fn parse_alias(text: &str) -> Vec<Alias> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("alias"), Some(pattern), Some(module)) => Some(Alias {
                    pattern: normalize(pattern),
                    module: normalize(module),
                }),
                _ => None,
            }
        })
        .collect()
}

/// Parses `modules.softdep`: `softdep MODULE pre: A B post: C`.
pub fn parse_softdep(text: &str) -> BTreeMap<String, Soft> {
    let mut all: BTreeMap<String, Soft> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else {
            continue;
        };
        let soft = all.entry(normalize(module)).or_default();
        let mut after = None;
        for word in words {
            match (word, after) {
                ("pre:", _) => after = Some(false),
                ("post:", _) => after = Some(true),
                (name, Some(false)) => soft.before.push(normalize(name)),
                (name, Some(true)) => soft.after.push(normalize(name)),
                (_, None) => {}
            }
        }
    }
    all
}

/// Parses `modules.builtin`: one path a line.
pub fn parse_builtin(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(name_of)
        .collect()
}

/// Parses `modules.builtin.modinfo` (`module.key=value`, separated by NUL) for the
/// aliases of what is part of the kernel.
pub fn parse_builtin_aliases(text: &str) -> Vec<Alias> {
    text.split('\0')
        .filter_map(|record| {
            let (key, value) = record.split_once('=')?;
            let module = key.strip_suffix(".alias")?;
            Some(Alias {
                pattern: normalize(value),
                module: normalize(module),
            })
        })
        .collect()
}

/// Parses `/proc/modules`: the names of the modules that are loaded.
pub fn parse_loaded(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(normalize)
        .collect()
}

/// The names of the modules that are loaded now.
pub fn loaded() -> io::Result<BTreeSet<String>> {
    match std::fs::read_to_string("/proc/modules") {
        Ok(text) => Ok(parse_loaded(&text)),
        // A kernel without modules has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Whether a shell pattern (`*`, `?`, `[a-z]`, `[!a]`) matches the whole text, as
/// fnmatch(3) without flags. Takes time in proportion to both lengths multiplied.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and how far the text is that it has swallowed.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
            continue;
        }
        if t < text.len()
            && let Some(width) = match_one(&pattern[p..], text[t])
        {
            p += width;
            t += 1;
            continue;
        }
        match star {
            Some((at, swallowed)) if swallowed < text.len() => {
                star = Some((at, swallowed + 1));
                p = at + 1;
                t = swallowed + 1;
            }
            _ => return false,
        }
    }
}

/// How many bytes of the pattern match this one byte; nothing if they do not.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => match match_set(pattern, byte) {
            Some((true, width)) => Some(width),
            Some((false, _)) => None,
            // An open bracket without an end stands for itself.
            None => (byte == b'[').then_some(1),
        },
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        literal => (literal == byte).then_some(1),
    }
}

/// Whether the byte is in the bracket expression, and how long that is.
fn match_set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    let mut at = first;
    let mut found = false;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        let high = match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(&high)) if high != b']' => {
                at += 2;
                high
            }
            _ => low,
        };
        found |= (low..=high).contains(&byte);
        at += 1;
    }
}

/// Every distinct `modalias` of the devices below `/sys/devices`.
pub fn modaliases() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect_modaliases(Path::new("/sys/devices"), 0, &mut found);
    found
}

fn collect_modaliases(dir: &Path, depth: u32, found: &mut BTreeSet<String>) {
    // Devices come and go while this walks: what cannot be read is not there.
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth < MAX_DEPTH {
            collect_modaliases(&entry.path(), depth + 1, found);
        } else if kind.is_file()
            && entry.file_name() == "modalias"
            && let Ok(text) = std::fs::read_to_string(entry.path())
            && !text.trim().is_empty()
        {
            found.insert(text.trim().to_owned());
        }
    }
}

/// The modules of one kernel, and what it knows of them.
#[derive(Clone, Debug, Default)]
pub struct Index {
    dir: PathBuf,
    modules: BTreeMap<String, Entry>,
    aliases: Vec<Alias>,
    soft: BTreeMap<String, Soft>,
    builtin: BTreeSet<String>,
    builtin_aliases: Vec<Alias>,
}

impl Index {
    /// Reads the index in a directory such as `/usr/lib/modules/6.12.0`. Only
    /// `modules.dep` must be there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        let read = |name: &str, required: bool| {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if !required && error.kind() == io::ErrorKind::NotFound => {
                    Ok(String::new())
                }
                Err(source) => Err(Error::Index { path, source }),
            }
        };
        Ok(Self {
            modules: parse_dep(&read("modules.dep", true)?),
            aliases: parse_alias(&read("modules.alias", false)?),
            soft: parse_softdep(&read("modules.softdep", false)?),
            builtin: parse_builtin(&read("modules.builtin", false)?),
            builtin_aliases: parse_builtin_aliases(&read("modules.builtin.modinfo", false)?),
            dir,
        })
    }

    /// Reads the index of the running kernel, below `/usr/lib/modules` or `/lib/modules`.
    pub fn open_running() -> Result<Self, Error> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let dir = Path::new("/usr/lib/modules").join(&release);
        let dir = if dir.exists() {
            dir
        } else {
            Path::new("/lib/modules").join(&release)
        };
        Self::open(dir)
    }

    /// Whether a module of that name is part of the kernel.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normalize(name))
    }

    /// The names of all modules, those that have a file and those that are part of the kernel.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().chain(&self.builtin).map(String::as_str)
    }

    /// Whether a module of that name has a file.
    pub fn contains(&self, name: &str) -> bool {
        self.modules.contains_key(&normalize(name))
    }

    /// The file of a module, relative to the modules directory.
    pub fn path(&self, name: &str) -> Option<&str> {
        let entry = self.modules.get(&normalize(name))?;
        Some(&entry.path)
    }

    /// The modules that an alias such as a device's modalias stands for.
    pub fn resolve(&self, alias: &str) -> Vec<&str> {
        let alias = normalize(alias);
        let mut found: Vec<&str> = Vec::new();
        for entry in &self.aliases {
            if matches(&entry.pattern, &alias) && !found.contains(&entry.module.as_str()) {
                found.push(&entry.module);
            }
        }
        found
    }

    /// Loads a module and all it needs; parameters as `name=value` words.
    pub fn load(&self, name: &str, params: &str) -> Result<Loaded, Error> {
        let name = normalize(name);
        let given = |module: &str| match module == name {
            true => params.to_owned(),
            false => String::new(),
        };
        self.load_tree(&name, &mut Load::new(&given), 0)
    }

    /// Loads a module and all it needs, each with its parameters. The names of those that
    /// were inserted are added to `inserted`, also where another one fails.
    pub fn load_with(
        &self,
        name: &str,
        parameters: &Parameters,
        inserted: &mut Vec<String>,
    ) -> Result<Loaded, Error> {
        let given = |module: &str| parameters.get(module).map(words).unwrap_or_default();
        let mut load = Load::new(&given);
        let result = self.load_tree(&normalize(name), &mut load, 0);
        inserted.append(&mut load.inserted);
        result
    }

    /// Loads every module that an alias stands for. Nothing in the index is not an
    /// error: most devices need no module. One that the kernel refuses does not
    /// keep the others from being loaded; the first error is returned.
    pub fn load_alias(&self, alias: &str) -> Result<Loaded, Error> {
        let mut result = Ok(Loaded::Present);
        for module in self.resolve(alias) {
            match self.load(module, "") {
                Ok(Loaded::Inserted) if result.is_ok() => result = Ok(Loaded::Inserted),
                Err(error) if result.is_ok() => result = Err(error),
                _ => {}
            }
        }
        result
    }

    /// Loads by a module's name or, if there is none, by alias, as modprobe(8) does.
    pub fn load_any(&self, name: &str, params: &str) -> Result<Loaded, Error> {
        if self.contains(name) || self.is_builtin(name) {
            return self.load(name, params);
        }
        if !self.resolve(name).is_empty() {
            return self.load_alias(name);
        }
        let alias = normalize(name);
        if self
            .builtin_aliases
            .iter()
            .any(|entry| matches(&entry.pattern, &alias))
        {
            return Ok(Loaded::Present);
        }
        Err(Error::Unknown(name.to_owned()))
    }

    fn load_tree(&self, name: &str, load: &mut Load<'_>, depth: u32) -> Result<Loaded, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::Nested(name.to_owned()));
        }
        if !load.seen.insert(name.to_owned()) {
            return Ok(Loaded::Present);
        }
        let Some(entry) = self.modules.get(name) else {
            return match self.builtin.contains(name) {
                true => Ok(Loaded::Present),
                false => Err(Error::Unknown(name.to_owned())),
            };
        };
        // This file says that it is there, or about to be.
        if Path::new("/sys/module")
            .join(name)
            .join("initstate")
            .exists()
        {
            return Ok(Loaded::Present);
        }
        let soft = self.soft.get(name);
        self.load_soft(soft.map_or(&[], |soft| &soft.before), load, depth);
        for need in &entry.needs {
            self.load_tree(need, load, depth + 1)?;
        }
        let result = insert(
            &self.dir.join(&entry.path),
            name,
            &parameters(name, (load.given)(name)),
        )?;
        if result == Loaded::Inserted {
            load.inserted.push(name.to_owned());
        }
        self.load_soft(soft.map_or(&[], |soft| &soft.after), load, depth);
        Ok(result)
    }

    /// Soft dependencies are wishes: what is missing or fails is passed over.
    fn load_soft(&self, names: &[String], load: &mut Load<'_>, depth: u32) {
        for name in names {
            let modules: Vec<&str> = match self.modules.contains_key(name) {
                true => vec![name],
                false => self.resolve(name),
            };
            for module in modules {
                if self.load_tree(module, load, depth + 1).is_err() {
                    continue;
                }
            }
        }
    }
}

/// One request to load, and what came of it so far.
struct Load<'a> {
    /// What a module is given.
    given: &'a dyn Fn(&str) -> String,
    seen: BTreeSet<String>,
    inserted: Vec<String>,
}

impl<'a> Load<'a> {
    fn new(given: &'a dyn Fn(&str) -> String) -> Self {
        Load {
            given,
            seen: BTreeSet::new(),
            inserted: Vec::new(),
        }
    }
}

/// The parameters of a module: its own of [`PARAMETERS`], and behind them those that were
/// asked for, which count more.
fn parameters(name: &str, asked: String) -> String {
    let mut known = PARAMETERS.iter();
    match known.find(|(module, _)| *module == name) {
        Some((_, own)) if asked.is_empty() => (*own).to_owned(),
        Some((_, own)) => format!("{own} {asked}"),
        None => asked,
    }
}

/// Inserts one file; a module that is there already is fine.
fn insert(path: &Path, name: &str, params: &str) -> Result<Loaded, Error> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(
        |error| Error::Open {
            path: path.to_owned(),
            source: error.into(),
        },
    )?;
    let params = CString::new(params).map_err(|_| Error::Parameter(name.to_owned()))?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if plain { 0 } else { COMPRESSED_FILE };
    match rustix::system::finit_module(&file, &params, flags) {
        Ok(()) => Ok(Loaded::Inserted),
        Err(rustix::io::Errno::EXIST) => Ok(Loaded::Present),
        Err(error) => Err(Error::Refused {
            name: name.to_owned(),
            source: error.into(),
        }),
    }
}

#[cfg(test)]
mod tests;
