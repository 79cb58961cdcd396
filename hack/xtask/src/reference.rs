//! Writes docs/api.md from the comments in the `.proto` files.

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::{collections::BTreeMap, fmt::Write as _};

/// The reference of the public API as Markdown.
pub(crate) fn write(set: &FileDescriptorSet) -> String {
    let mut page = String::from(
        "# The API\n\nGenerated from the `.proto` files in `api/proto/keelson/v1`; do not edit.\n\n\
         gRPC over TLS 1.3 on port 50000. The organisation in the client's certificate is its role:\n\
         `os:reader`, `os:operator` or `os:admin`. Reflection and `grpc.health.v1` are served too.\n",
    );
    for file in set
        .file
        .iter()
        .filter(|file| file.package() == "keelson.v1")
    {
        one_file(&mut page, file);
    }
    page
}

/// Comments by the path of what they stand above (see descriptor.proto, SourceCodeInfo).
type Comments = BTreeMap<Vec<i32>, String>;

fn one_file(page: &mut String, file: &FileDescriptorProto) {
    let comments: Comments = file
        .source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .map(|location| (location.path.clone(), prose(location.leading_comments())))
        .collect();
    let said = |path: &[i32]| comments.get(path).cloned().unwrap_or_default();
    for (index, service) in (0..).zip(&file.service) {
        line(
            page,
            &format!("\n## {}\n\n{}\n", service.name(), said(&[6, index])),
        );
        line(page, "| call | takes | gives | |\n|---|---|---|---|");
        for (number, method) in (0..).zip(&service.method) {
            let stream = if method.server_streaming() {
                "stream of "
            } else {
                ""
            };
            let (takes, gives) = (short(method.input_type()), short(method.output_type()));
            let text = said(&[6, index, 2, number]).replace('\n', " ");
            line(
                page,
                &format!(
                    "| `{}` | [{takes}](#{}) | {stream}[{gives}](#{}) | {text} |",
                    method.name(),
                    anchor(takes),
                    anchor(gives)
                ),
            );
        }
    }
    for (index, message) in (0..).zip(&file.message_type) {
        one_message(page, message, &[4, index], &comments);
    }
    for (index, values) in (0..).zip(&file.enum_type) {
        one_enum(page, values, &[5, index], &comments);
    }
}

fn one_message(page: &mut String, message: &DescriptorProto, path: &[i32], comments: &Comments) {
    let said = |path: &[i32]| comments.get(path).cloned().unwrap_or_default();
    line(page, &format!("\n### {}\n\n{}", message.name(), said(path)));
    if !message.field.is_empty() {
        line(page, "\n| field | type | |\n|---|---|---|");
    }
    for (number, field) in (0..).zip(&message.field) {
        let text = said(&[path, &[2, number]].concat()).replace('\n', " ");
        line(
            page,
            &format!("| `{}` | {} | {text} |", field.name(), type_of(field)),
        );
    }
    for (number, values) in (0..).zip(&message.enum_type) {
        one_enum(page, values, &[path, &[4, number]].concat(), comments);
    }
}

fn one_enum(page: &mut String, values: &EnumDescriptorProto, path: &[i32], comments: &Comments) {
    let said = |path: &[i32]| comments.get(path).cloned().unwrap_or_default();
    line(
        page,
        &format!(
            "\n#### {}\n\n{}\n\n| value | |\n|---|---|",
            values.name(),
            said(path)
        ),
    );
    for (number, value) in (0..).zip(&values.value) {
        let text = said(&[path, &[2, number]].concat()).replace('\n', " ");
        line(page, &format!("| `{}` | {text} |", value.name()));
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        other => other
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    };
    if field.label() == Label::Repeated {
        format!("list of {name}")
    } else {
        name
    }
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn anchor(name: &str) -> String {
    name.to_lowercase()
}

/// A comment as one paragraph or several.
fn prose(comment: &str) -> String {
    comment
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

fn line(page: &mut String, text: &str) {
    // Writing to a String cannot fail.
    if writeln!(page, "{text}").is_err() {
        unreachable!("a String takes any text");
    }
}
