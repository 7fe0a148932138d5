//! Which Rego is admitted: every node of the parsed tree is named here, or refused. So a new kind of node in a new version
//! of the interpreter is refused until somebody has thought about it.

use serde_json::Value;

use super::RuleError;

/// Rules of one module, heads and defaults together: rules refer to each other, and evaluation follows them.
const RULES_MAX: usize = 32;
/// Alternatives (`else`) of one rule.
const BODIES_MAX: usize = 16;

/// Functions whose result is no larger than their arguments, and which need no more time than their arguments have bytes.
const FUNCTIONS: [&str; 44] = [
    "abs",
    "array.reverse",
    "array.slice",
    "bits.and",
    "bits.or",
    "bits.xor",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "indexof",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "object.get",
    "object.keys",
    "object.subset",
    "round",
    "sort",
    "split",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.count",
    "strings.reverse",
    "substring",
    "sum",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "upper",
];

type Admitted = Result<(), RuleError>;

/// Judges the tree of one module.
pub(super) fn admitted(tree: &Value) -> Admitted {
    let module = &tree[0]["ast"];
    if path(&module["package"]["refr"]).as_deref() != Some("keyferry") {
        return refused(&module["package"], "the package must be: package keyferry");
    }
    for import in list(&module["imports"]) {
        let named = path(&import["refr"]);
        if named.as_deref() != Some("rego.v1") || !import["as"].is_null() {
            return refused(import, "import rego.v1, and nothing else: there is nothing else");
        }
    }
    let rules = list(&module["rules"]);
    if rules.len() > RULES_MAX {
        return Err(RuleError::TooLarge { what: "rules", found: rules.len(), max: RULES_MAX });
    }
    rules.iter().try_for_each(rule)?;
    let defines = |rule: &Value| path(&node(rule).1["head"]["Compr"]["refr"]).as_deref() == Some("allow");
    if rules.iter().any(defines) { Ok(()) } else { refused(&module["package"], "a rule named allow is missing") }
}

fn rule(rule: &Value) -> Admitted {
    let (kind, parts) = node(rule);
    match kind {
        "Default" if list(&parts["args"]).is_empty() && named(&parts["refr"]) => expression(&parts["value"], Content::Constant),
        "Spec" => {
            let (kind, head) = node(&parts["head"]);
            if kind != "Compr" || !named(&head["refr"]) {
                return refused(parts, "only rules with a plain name and one value: no functions, no `contains`, no keys in the name");
            }
            assigned(&head["assign"])?;
            let bodies = list(&parts["bodies"]);
            if bodies.len() > BODIES_MAX {
                return Err(RuleError::TooLarge { what: "alternatives of a rule", found: bodies.len(), max: BODIES_MAX });
            }
            bodies.iter().try_for_each(|body| assigned(&body["assign"]).and_then(|()| query(&body["query"])))
        }
        _ => refused(parts, "this kind of rule is not evaluated here"),
    }
}

fn assigned(assign: &Value) -> Admitted {
    if assign.is_null() { Ok(()) } else { expression(&assign["value"], Content::Any) }
}

fn query(query: &Value) -> Admitted {
    list(&query["stmts"]).iter().try_for_each(|statement| {
        if !list(&statement["with_mods"]).is_empty() {
            return refused(statement, "`with` is not evaluated here");
        }
        let (kind, parts) = node(&statement["literal"]);
        match kind {
            "SomeVars" => Ok(()),
            "SomeIn" => all([&parts["key"], &parts["value"], &parts["collection"]]),
            "Expr" | "NotExpr" => expression(&parts["expr"], Content::Any),
            "Every" => expression(&parts["domain"], Content::Any).and_then(|()| self::query(&parts["query"])),
            _ => refused(statement, "this kind of statement is not evaluated here"),
        }
    })
}

/// What an expression may be made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Any,
    /// Inside of lists, sets and objects: from variables, values could be built that take forever to compare.
    Constant,
}

fn expression(expression: &Value, content: Content) -> Admitted {
    let (kind, parts) = node(expression);
    match kind {
        "String" | "RawString" | "Number" | "Bool" | "Null" => return Ok(()),
        "Array" | "Set" => return list(&parts["items"]).iter().try_for_each(|item| self::expression(item, Content::Constant)),
        "Object" => {
            return list(&parts["fields"]).iter().try_for_each(|field| {
                self::expression(&field[1], Content::Constant).and_then(|()| self::expression(&field[2], Content::Constant))
            });
        }
        "UnaryExpr" => return self::expression(&parts["expr"], content),
        _ if content == Content::Constant => return refused(parts, "lists, sets and objects hold constants only"),
        _ => {}
    }
    match kind {
        "Var" => Ok(()),
        "Call" => call(parts),
        "RefDot" => all([&parts["refr"]]),
        "RefBrack" => all([&parts["refr"], &parts["index"]]),
        "BinExpr" | "BoolExpr" | "AssignExpr" => all([&parts["lhs"], &parts["rhs"]]),
        "ArithExpr" if parts["op"] == "Add" || parts["op"] == "Sub" => all([&parts["lhs"], &parts["rhs"]]),
        "ArithExpr" => refused(parts, "of arithmetic only + and - are evaluated here"),
        "Membership" => all([&parts["key"], &parts["value"], &parts["collection"]]),
        "ArrayCompr" | "SetCompr" | "ObjectCompr" => refused(parts, "comprehensions are not evaluated here: use `some` and `every`"),
        _ => refused(parts, "this kind of expression is not evaluated here"),
    }
}

fn call(parts: &Value) -> Admitted {
    let function = path(&parts["fcn"]).unwrap_or_default();
    if !FUNCTIONS.contains(&function.as_str()) {
        return refused(parts, &format!("the function {function} is not evaluated here; these are: {}", FUNCTIONS.join(", ")));
    }
    list(&parts["params"]).iter().try_for_each(|parameter| expression(parameter, Content::Any))
}

fn all<const N: usize>(expressions: [&Value; N]) -> Admitted {
    expressions.into_iter().filter(|expression| !expression.is_null()).try_for_each(|each| expression(each, Content::Any))
}

/// The kind of a node and its parts; of what is no node, no kind.
fn node(value: &Value) -> (&str, &Value) {
    match value.as_object().map(|object| (object.len(), object.iter().next())) {
        Some((1, Some((kind, parts)))) => (kind, parts),
        _ => ("", &Value::Null),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn named(reference: &Value) -> bool {
    node(reference).0 == "Var"
}

/// `a.b.c` of a reference that is made of names alone.
fn path(reference: &Value) -> Option<String> {
    let (kind, parts) = node(reference);
    match kind {
        "Var" => parts["value"].as_str().map(str::to_owned),
        "RefDot" => Some(format!("{}.{}", path(&parts["refr"])?, parts["field"][1].as_str()?)),
        _ => None,
    }
}

fn refused(parts: &Value, what: &str) -> Admitted {
    Err(RuleError::NotAllowed { line: parts["span"]["line"].as_u64().unwrap_or_default(), what: what.to_owned() })
}
