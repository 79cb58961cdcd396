//! Tests of `module.rs`.

use super::*;
use proptest::prelude::*;

#[test]
fn dependencies_are_listed_in_the_order_of_loading() {
    let index = parse_dep(
        "kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko kernel/crypto/crc32c-generic.ko\n\
         kernel/crypto/crc32c-generic.ko:\nkernel/a-b.ko.xz:\n\n",
    );
    assert_eq!(index["erofs"].needs, ["crc32c_generic", "libcrc32c"]);
    assert_eq!(
        index["crc32c_generic"].path,
        "kernel/crypto/crc32c-generic.ko"
    );
    assert!(index.contains_key("a_b"));
}

#[test]
fn two_modules_bring_no_links_unless_asked() {
    for (name, asked, want) in [
        ("bonding", "", "max_bonds=0"),
        ("bonding", "max_bonds=2", "max_bonds=0 max_bonds=2"),
        ("dummy", "", "numdummies=0"),
        ("veth", "", ""),
    ] {
        assert_eq!(parameters(name, asked.to_owned()), want, "{name} {asked}");
    }
}

#[test]
fn soft_dependencies_have_two_sides() {
    let soft = parse_softdep("# comment\nsoftdep libcrc32c pre: crc32c post: x-y z\n");
    assert_eq!(soft["libcrc32c"].before, ["crc32c"]);
    assert_eq!(soft["libcrc32c"].after, ["x_y", "z"]);
}

#[test]
fn patterns_match_as_the_shell_does() {
    for (pattern, text, want) in [
        (
            "pci:v00001AF4d*sv*sd*bc*sc*i*",
            "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00",
            true,
        ),
        ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
        ("virtio:d00000002v*", "virtio:d00000003v00001AF4", false),
        (
            "usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*",
            "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00",
            true,
        ),
        ("a[0-9]c", "a5c", true),
        ("a[0-9]c", "axc", false),
        ("a[!0-9]c", "axc", true),
        ("a[]c", "a[]c", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*", "", true),
        ("", "a", false),
        ("a*b*c", "aXbXbc", true),
    ] {
        assert_eq!(matches(pattern, text), want, "{pattern} on {text}");
    }
}

#[test]
fn a_hyphen_in_a_set_stays() {
    assert_eq!(normalize("crypto-sha256"), "crypto_sha256");
    assert_eq!(normalize("dmi[0-9]-x"), "dmi[0-9]_x");
}

#[test]
fn aliases_of_the_kernel_itself_are_found() {
    let aliases = parse_builtin_aliases("ext4.license=GPL\0ext4.alias=fs-ext4\0ext4.alias=ext3\0");
    assert_eq!(
        aliases[0],
        Alias {
            pattern: "fs_ext4".into(),
            module: "ext4".into()
        }
    );
    assert_eq!(aliases.len(), 2);
}

#[test]
fn what_is_built_in_loads_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("modules.dep"), "").unwrap();
    std::fs::write(
        dir.path().join("modules.builtin"),
        "kernel/fs/ext4/ext4.ko\n",
    )
    .unwrap();
    let index = Index::open(dir.path()).unwrap();
    assert_eq!(index.load_any("ext4", "").unwrap(), Loaded::Present);
    assert!(matches!(
        index.load_any("nonesuch", ""),
        Err(Error::Unknown(_))
    ));
    assert_eq!(index.load_alias("pci:nothing").unwrap(), Loaded::Present);
}

#[test]
fn parameters_are_words() {
    let of = |all: &[(&str, &str)]| {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        words(&all.iter().map(owned).collect())
    };
    for (all, text) in [
        (&[][..], ""),
        (&[("hashsize", "65536")], "hashsize=65536"),
        (&[("b", "1,2"), ("a", "x y")], "a=\"x y\" b=1,2"),
    ] {
        assert_eq!(of(all), text);
    }
}

#[test]
fn a_missing_index_names_its_file() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        matches!(Index::open(dir.path()), Err(Error::Index { path, .. }) if path.ends_with("modules.dep"))
    );
}

proptest! {
    #[test]
    fn parsers_take_anything(text in "\\PC*|([a-z:*\\[\\]\\-/ \n]|pre:|post:|softdep |alias )*") {
        parse_dep(&text);
        parse_alias(&text);
        parse_softdep(&text);
        parse_builtin(&text);
        parse_builtin_aliases(&text);
        parse_loaded(&text);
    }

    #[test]
    fn a_text_without_signs_matches_itself_and_star(text in "[a-zA-Z0-9:]{0,40}") {
        prop_assert!(matches(&text, &text));
        prop_assert!(matches("*", &text));
        let tail = format!("*{text}");
        prop_assert!(matches(&tail, &text));
    }

    #[test]
    fn matching_takes_any_pattern(pattern in "[ab*?\\[\\]!\\\\-]{0,20}", text in "[ab]{0,30}") {
        matches(&pattern, &text);
    }
}
