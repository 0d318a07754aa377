//! The explanation as lines for people.

use std::fmt::Write as _;

use bodhi_proto::snapshot::Token;

use super::{FamilyAnswer, RouteInfo};

/// A few lines per family. A family without a match is left out when the other has one.
pub(super) fn render(model: &str, token: &Token, families: &[FamilyAnswer]) -> String {
    let mut text = format!("{model}, for token {} of {}\n", token.id, token.owner);
    let found = families.iter().any(|f| f.served_by.is_some());
    for family in families {
        if family.served_by.is_some() || !found {
            render_family(&mut text, family);
        }
    }
    text
}

fn render_family(text: &mut String, answer: &FamilyAnswer) {
    // Writing to a String cannot fail.
    let _ = match answer.family {
        "responses" => writeln!(text, "at /v1/responses:"),
        _ => writeln!(text, "at every endpoint but /v1/responses:"),
    };
    if let Some(by) = answer.refused_by {
        let _ = writeln!(
            text,
            "  not allowed: the {by}'s list of models leaves it out"
        );
    }
    match &answer.served_by {
        None => {
            let _ = writeln!(text, "  no object serves it");
        }
        Some(served) => {
            let _ = writeln!(
                text,
                "  {} answers, by {} '{}'",
                served.object, served.by, served.pattern
            );
            if let Some(refusal) = &served.refusal {
                let _ = writeln!(
                    text,
                    "  but cannot serve: {}: {}",
                    refusal.reason, refusal.message
                );
            }
            for route in &served.routes {
                render_route(text, route);
            }
            if let Some(cap) = served.output_cap {
                let _ = writeln!(text, "  at most {cap} output tokens");
            }
        }
    }
    for other in &answer.others {
        let _ = writeln!(
            text,
            "  not {} ('{}'): {}",
            other.object, other.pattern, other.why
        );
    }
    if !answer.near.is_empty() {
        let _ = writeln!(text, "  near: {}", answer.near.join(", "));
    }
}

fn render_route(text: &mut String, route: &RouteInfo) {
    if let Some(workers) = route.workers {
        let _ = writeln!(
            text,
            "  → {}, a local model: {workers} workers ready",
            route.upstream
        );
        return;
    }
    let _ = writeln!(
        text,
        "  → {} as '{}', {} at {} (priority {}, weight {})",
        route.upstream,
        route.model,
        route.format.unwrap_or("unknown format"),
        route.base_url.as_deref().unwrap_or("unknown address"),
        route.priority,
        route.weight,
    );
    for added in &route.adds {
        let _ = writeln!(text, "    adds {added}");
    }
}
