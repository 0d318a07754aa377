//! `bodhi get`: the objects, and whether they serve.

use anyhow::bail;
use serde_json::{Value, json};

use crate::client::Client;
use crate::connection::Connection;
use crate::object_name::ObjectName;
use crate::output::{Answer, printable, table};

/// Arguments of `bodhi get`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `apimodels`, `aliases`, or one object as NAME or NAMESPACE/NAME [default: all]
    what: Option<What>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Kind(&'static str),
    Object(ObjectName),
}

/// The kinds as the admin API's paths name them.
const KINDS: [&str; 2] = ["apimodels", "aliases"];

impl std::str::FromStr for What {
    type Err = <ObjectName as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "apimodels" | "apimodel" | "am" => Ok(Self::Kind("apimodels")),
            "aliases" | "alias" | "mal" => Ok(Self::Kind("aliases")),
            name => name.parse().map(Self::Object),
        }
    }
}

/// Lists what was asked for, ApiModels first, and what is wrong in the manifests.
pub(crate) fn run(args: &Args, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    let kinds = match &args.what {
        Some(What::Kind(kind)) => vec![*kind],
        _ => KINDS.to_vec(),
    };
    let mut objects = Vec::new();
    for kind in kinds {
        let answer = client.get(&[kind], &[])?;
        objects.extend(answer["items"].as_array().into_iter().flatten().cloned());
    }
    let status = client.get(&["status"], &[])?;
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let rows = |objects: &[Value]| objects.iter().map(row).collect::<Vec<_>>();
    let mut text = String::new();
    if let Some(What::Object(name)) = &args.what {
        objects.retain(|object| is_named(object, name));
        if objects.is_empty() {
            bail!("there is no ApiModel and no Alias {name}: `bodhi get` lists what there is");
        }
        for object in &objects {
            text.push_str(&table(&HEADINGS, &rows(std::slice::from_ref(object))));
            text.push('\n');
            text.push_str(&workers(object).unwrap_or_default());
            text.push_str(&conditions(object));
        }
    } else {
        text.push_str(&table(&HEADINGS, &rows(&objects)));
    }
    if !problems.is_empty() {
        text.push_str("\nIn the manifests (what they last said rightly is in force):\n");
        text.extend(problems.iter().map(problem));
    }
    Ok(Answer::new(
        json!({"items": objects, "problems": problems}),
        text,
    ))
}

const HEADINGS: [&str; 5] = ["KIND", "NAME", "SERVES", "READY", "REASON"];

/// Of a local model: `2 workers of a file of 2.3 GiB`.
fn workers(object: &Value) -> Option<String> {
    let count = object["status"]["replicas"].as_u64()?;
    let noun = if count == 1 { "worker" } else { "workers" };
    let size = object["status"]["artifact"]["size"].as_str();
    let file = size.map_or_else(String::new, |size| format!(" of a file of {size}"));
    Some(printable(&format!("{count} {noun}{file}")) + "\n\n")
}

fn conditions(object: &Value) -> String {
    let all = object["status"]["conditions"].as_array();
    let rows = all.into_iter().flatten().map(|condition| {
        let text = |key: &str| condition[key].as_str().unwrap_or("-").to_owned();
        vec![
            text("type"),
            text("status"),
            text("reason"),
            text("message"),
        ]
    });
    table(
        &["CONDITION", "STATUS", "REASON", "MESSAGE"],
        &rows.collect::<Vec<_>>(),
    )
}

/// `FILE:LINE: OBJECT FIELD: MESSAGE`, as `bodhi validate` says it.
fn problem(problem: &Value) -> String {
    let text = |key: &str| problem[key].as_str().unwrap_or_default();
    let mut line = text("file").to_owned();
    if let Some(number) = problem["line"].as_u64() {
        line.push_str(&format!(":{number}"));
    }
    let about = [text("object"), text("path")].join(" ");
    match about.trim() {
        "" => line.push_str(": "),
        about => line.push_str(&format!(": {about}: ")),
    }
    line.push_str(text("message"));
    printable(&line) + "\n"
}

fn is_named(object: &Value, name: &ObjectName) -> bool {
    let metadata = &object["metadata"];
    metadata["name"] == name.name && metadata["namespace"] == name.namespace()
}

fn row(object: &Value) -> Vec<String> {
    let text = |pointer: &str| {
        let value = object.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or("-").to_owned()
    };
    let name = format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"));
    let ready = object["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
    let of_ready = |field: &str| {
        let value = ready.and_then(|condition| condition[field].as_str());
        value.unwrap_or("-").to_owned()
    };
    vec![
        text("/kind"),
        name,
        serves(object),
        of_ready("status"),
        of_ready("reason"),
    ]
}

/// What clients may ask for, in short.
fn serves(object: &Value) -> String {
    let spec = &object["spec"];
    let own = |field: &str| spec[field].as_str();
    if object["kind"] == "Alias" {
        let name = own("model").or(object["metadata"]["name"].as_str());
        return name.unwrap_or("-").to_owned();
    }
    let prefix = own("prefix").unwrap_or_default();
    match spec["models"].as_array().map_or(0, Vec::len) {
        _ if spec["forwardAll"] == true => format!("{prefix}*"),
        1 => format!("{prefix}{}", spec["models"][0].as_str().unwrap_or_default()),
        count => format!("{count} models"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_knows() {
        for (text, kind) in [
            ("am", "apimodels"),
            ("aliases", "aliases"),
            ("mal", "aliases"),
        ] {
            assert_eq!(text.parse(), Ok(What::Kind(kind)));
        }
        assert!(matches!("team-a/fast".parse(), Ok(What::Object(_))));
        assert!("Not A Name".parse::<What>().is_err());
    }

    #[test]
    fn a_row_says_what_is_served_and_whether_it_is_ready() {
        let object = json!({
            "kind": "ApiModel",
            "metadata": {"namespace": "bodhi", "name": "openrouter"},
            "spec": {"prefix": "openrouter/", "forwardAll": true},
            "status": {"conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted"},
                {"type": "Ready", "status": "False", "reason": "SecretNotFound"},
            ]},
        });
        let expected = [
            "ApiModel",
            "bodhi/openrouter",
            "openrouter/*",
            "False",
            "SecretNotFound",
        ];
        assert_eq!(row(&object), expected);
    }

    #[test]
    fn a_local_model_shows_its_workers_and_its_file() {
        let object = json!({"status": {"replicas": 2, "artifact": {"size": "2.3 GiB"}}});
        assert_eq!(
            workers(&object).unwrap(),
            "2 workers of a file of 2.3 GiB\n\n"
        );
        assert_eq!(
            workers(&json!({"status": {"replicas": 1}})).unwrap(),
            "1 worker\n\n"
        );
        assert_eq!(workers(&json!({"status": {}})), None);
    }

    #[test]
    fn an_object_without_status_is_not_ready_yet() {
        let object = json!({
            "kind": "Alias",
            "metadata": {"namespace": "bodhi", "name": "fast"},
            "spec": {},
        });
        assert_eq!(row(&object), ["Alias", "bodhi/fast", "fast", "-", "-"]);
    }

    #[test]
    fn problems_in_files_are_told_with_file_line_and_field() {
        let known = json!({
            "file": "team.yaml", "line": 7, "object": "ApiModel/bodhi/a", "path": "spec.prefix",
            "message": "is needed",
        });
        assert_eq!(
            problem(&known),
            "team.yaml:7: ApiModel/bodhi/a spec.prefix: is needed\n"
        );
        let bare = json!({"file": "x.yaml", "line": null, "object": null, "message": "no YAML"});
        assert_eq!(problem(&bare), "x.yaml: no YAML\n");
    }
}
