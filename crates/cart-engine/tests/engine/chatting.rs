//! Chat templates render as `transformers` renders them.

use std::time::Duration;

use cart_engine::{ChatError, ChatTemplate, Ending, Message};
use serde_json::Value;

use crate::given::fixture;

fn lines(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture("chat").join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, ChatError> {
    let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
    let ending =
        if case["add_generation_prompt"] == true { Ending::Answer } else { Ending::Closed };
    template.render_as(&messages, ending, Duration::ZERO)
}

#[test]
fn smollm2s_own_template() {
    let source = std::fs::read_to_string(fixture("chat/smollm2.jinja")).unwrap();
    let template = ChatTemplate::new(source, "<|im_start|>".into(), "<|im_end|>".into()).unwrap();
    let cases = lines("smollm2.jsonl");
    assert!(cases.len() >= 30);
    for case in &cases {
        assert_eq!(render(&template, case).unwrap(), case["rendered"].as_str().unwrap());
    }
}

#[test]
fn what_templates_in_the_wild_use() {
    for case in lines("features.jsonl") {
        let text = |field: &str| case[field].as_str().unwrap().to_owned();
        let name = text("name");
        let template = ChatTemplate::new(text("template"), text("bos_token"), text("eos_token"));
        let found = template.and_then(|template| render(&template, &case));
        match case.get("error").and_then(Value::as_str) {
            Some(error) => {
                let found = found.unwrap_err().to_string();
                assert!(found.contains(error), "{name}: {found}");
            }
            None => assert_eq!(found.unwrap(), text("rendered"), "{name}"),
        }
    }
}
