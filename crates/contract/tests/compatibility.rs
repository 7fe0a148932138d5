//! What others have compiled against keeps its meaning: the committed baseline of the contract may be added to, never changed.
//!
//! `KEYFERRY_ACCEPT_CONTRACT=1 cargo test -p keyferry-contract --test compatibility` takes the current contract as the new
//! baseline, after additions; a change it complains about needs a new package version instead.
#![allow(clippy::unwrap_used)] // tests: a missing value is the failure

use std::{fs, path::PathBuf};

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, MethodDescriptor};

fn baseline_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/baseline.binpb")
}

fn shape(field: &FieldDescriptor) -> String {
    format!("{} {:?} {:?}", field.name(), field.cardinality(), field.kind())
}

/// Each removed or changed thing, by its full name.
fn breaks(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let ours = |name: &str| name.starts_with("keyferry.");
    let messages = old.all_messages().filter(|message| ours(message.full_name())).flat_map(|message| message_breaks(&message, new));
    let enums = old.all_enums().filter(|values| ours(values.full_name())).flat_map(|values| enum_breaks(&values, new));
    let methods = old.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    messages.chain(enums).chain(methods.filter_map(|method| method_break(&method, new))).collect()
}

fn message_breaks(old: &MessageDescriptor, new: &DescriptorPool) -> Vec<String> {
    let Some(new) = new.get_message_by_name(old.full_name()) else { return vec![format!("{} is gone", old.full_name())] };
    let reserved = |number: u32| new.reserved_ranges().any(|range| range.contains(&number));
    old.fields()
        .filter_map(|field| match new.get_field(field.number()) {
            Some(now) if shape(&now) == shape(&field) => None,
            Some(now) => Some(format!("{} was `{}` and is `{}`", field.full_name(), shape(&field), shape(&now))),
            None if reserved(field.number()) => None,
            None => Some(format!("{} is gone and its number is not reserved", field.full_name())),
        })
        .collect()
}

fn enum_breaks(old: &EnumDescriptor, new: &DescriptorPool) -> Vec<String> {
    let Some(new) = new.get_enum_by_name(old.full_name()) else { return vec![format!("{} is gone", old.full_name())] };
    let same = |number: i32, name: &str| new.get_value(number).is_some_and(|value| value.name() == name);
    old.values().filter(|value| !same(value.number(), value.name())).map(|value| format!("{} changed", value.full_name())).collect()
}

fn method_break(old: &MethodDescriptor, new: &DescriptorPool) -> Option<String> {
    let service = new.get_service_by_name(old.parent_service().full_name())?;
    let signature = |method: &MethodDescriptor| (method.input().full_name().to_owned(), method.output().full_name().to_owned());
    let now = service.methods().find(|method| method.name() == old.name());
    let kept = now.is_some_and(|now| signature(&now) == signature(old));
    (!kept).then(|| format!("{} changed or is gone", old.full_name()))
}

#[test]
fn the_contract_is_only_added_to() {
    if std::env::var_os("KEYFERRY_ACCEPT_CONTRACT").is_some() {
        fs::create_dir_all(baseline_file().parent().unwrap()).unwrap();
        fs::write(baseline_file(), keyferry_contract::DESCRIPTORS).unwrap();
    }
    let old = DescriptorPool::decode(fs::read(baseline_file()).unwrap().as_slice()).unwrap();
    let new = DescriptorPool::decode(keyferry_contract::DESCRIPTORS).unwrap();
    assert_eq!(breaks(&old, &new), Vec::<String>::new());
}

#[test]
fn a_changed_field_a_lost_value_and_a_lost_method_are_breaks() {
    let compile = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.proto"), format!("syntax = \"proto3\"; package keyferry.a.v1; {text}")).unwrap();
        DescriptorPool::from_file_descriptor_set(protox::compile(["a.proto"], [directory.path()]).unwrap()).unwrap()
    };
    let old =
        compile("message M { string a = 1; bytes b = 2; } enum E { E_UNSPECIFIED = 0; E_X = 1; } service S { rpc Do(M) returns (M); }");
    let kept = compile(
        "message M { string a = 1; reserved 2; uint32 c = 3; } enum E { E_UNSPECIFIED = 0; E_X = 1; E_Y = 2; } service S { rpc Do(M) returns (M); rpc More(M) returns (M); }",
    );
    assert_eq!(breaks(&old, &kept), Vec::<String>::new());
    let broken = compile("message M { bytes a = 1; } enum E { E_UNSPECIFIED = 0; } service S { rpc Undo(M) returns (M); }");
    assert_eq!(breaks(&old, &broken).len(), 4, "{:?}", breaks(&old, &broken));
}
