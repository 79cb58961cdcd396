//! The third role: `modprobe`, for programs and kernels that call it by that name. It
//! loads, and only that: nothing is removed, shown or configured.

use keelson_sys::module::Index;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Args {
    quiet: bool,
    all: bool,
    words: Vec<String>,
}

/// Runs with the words after the program's name; the exit code.
pub fn run(words: impl Iterator<Item = String>) -> u8 {
    let args = match parse(words) {
        Ok(args) => args,
        Err(word) => {
            eprintln!(
                "modprobe: {word:?} is not known here: modprobe [-q] [-a] [--] NAME [PARAMETER=VALUE…]"
            );
            return 1;
        }
    };
    let index = match Index::open_running() {
        Ok(index) => index,
        Err(error) => {
            eprintln!("modprobe: {}", crate::console::chain(&error));
            return 1;
        }
    };
    let mut code = 0;
    for (name, params) in requests(&args) {
        if let Err(error) = index.load_any(&name, &params) {
            code = 1;
            if !args.quiet {
                eprintln!("modprobe: {}", crate::console::chain(&error));
            }
        }
    }
    code
}

/// The word that is not understood is the error.
fn parse(words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args::default();
    let mut options = true;
    for word in words {
        match word.as_str() {
            "--" if options => options = false,
            "--quiet" if options => args.quiet = true,
            "--all" if options => args.all = true,
            "--use-blacklist" | "--syslog" | "--verbose" if options => {}
            short if options && short.len() > 1 && short.starts_with('-') => {
                for letter in short.chars().skip(1) {
                    match letter {
                        'q' => args.quiet = true,
                        'a' => args.all = true,
                        'b' | 's' | 'v' => {}
                        _ => return Err(word),
                    }
                }
            }
            _ => args.words.push(word),
        }
    }
    Ok(args)
}

/// Names and their parameters: all words are names, or the first one only.
fn requests(args: &Args) -> Vec<(String, String)> {
    match args.words.split_first() {
        Some((name, params)) if !args.all => vec![(name.clone(), params.join(" "))],
        _ => args
            .words
            .iter()
            .map(|name| (name.clone(), String::new()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<(bool, Vec<(String, String)>), String> {
        let args = parse(line.split_whitespace().map(str::to_owned))?;
        Ok((args.quiet, requests(&args)))
    }

    fn pair(name: &str, params: &str) -> (String, String) {
        (name.into(), params.into())
    }

    #[test]
    fn the_ways_it_is_called() {
        for (line, quiet, want) in [
            ("-q -- net-pf-10", true, vec![pair("net-pf-10", "")]),
            ("-- ip_vs", false, vec![pair("ip_vs", "")]),
            (
                "-a overlay br_netfilter",
                false,
                vec![pair("overlay", ""), pair("br_netfilter", "")],
            ),
            ("-qab a b", true, vec![pair("a", ""), pair("b", "")]),
            (
                "loop max_loop=8 x=y",
                false,
                vec![pair("loop", "max_loop=8 x=y")],
            ),
            (
                "--quiet --use-blacklist -- -odd",
                true,
                vec![pair("-odd", "")],
            ),
            ("", false, vec![]),
        ] {
            assert_eq!(asked(line), Ok((quiet, want)), "{line}");
        }
    }

    #[test]
    fn what_it_does_not_do_it_refuses() {
        assert_eq!(asked("-r overlay"), Err("-r".into()));
        assert!(asked("--show-depends x").is_err());
    }
}
