//! Requests as the system has them, made up: the same for the same seed.

use serde_json::{Value, json};

/// A request as the system stored it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) domain: &'static str,
    /// Seconds after the first.
    pub(super) at: u64,
    pub(super) account: Option<&'static str>,
    pub(super) body: Value,
    pub(super) response: Value,
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.roll(list.len() as u64)).unwrap()]
    }
}

struct Generator {
    dice: Dice,
    now: u64,
    requests: Vec<Request>,
}

pub(super) const DOMAINS: [&str; 4] = ["alpha.example", "beta.example", "gamma.example", "delta.example"];

impl Generator {
    /// What somebody says, spelled in one of the ways that mean the same.
    fn content(&mut self, text: &str) -> Value {
        match self.dice.roll(5) {
            0 | 1 => json!(text),
            2 => json!([{"type": "text", "text": text}]),
            3 => {
                json!([{"type": "tool_result", "tool_use_id": "b", "content": text, "cache_control": {"type": "ephemeral"}}])
            }
            _ => json!([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]),
        }
    }

    fn request(&mut self, domain: &'static str, system: Option<&Value>, messages: &[Value], response: Value) {
        let account = match (domain, self.dice.roll(3)) {
            ("alpha.example", 0) | ("gamma.example", 1) => Some("acc_1"),
            // One domain that two accounts were used by, and one that nothing is known of.
            ("beta.example" | "gamma.example", 0) => Some("acc_2"),
            _ => None,
        };
        let number = self.requests.len();
        let mut body = json!({"model": "m", "messages": messages});
        if let Some(system) = system {
            body["system"] = system.clone();
        }
        // Ids are in no order of time.
        let id = format!("{:08x}-0000-4000-8000-{number:012x}", self.dice.roll(u64::from(u32::MAX)));
        self.requests.push(Request { id, domain, at: self.now, account, body, response });
        self.now += self.dice.roll(4);
    }

    /// A conversation with its branches, and with what it has others do.
    fn conversation(&mut self, domain: &'static str, first: &str, depth: u32) {
        let mut system = match self.dice.roll(4) {
            0 => None,
            // As some clients say that there is none.
            3 => Some(Value::Null),
            1 => Some(json!("Be brief. \u{fc}ber alles \"klar\"")),
            _ => Some(json!([{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief."}])),
        };
        let turns = 1 + self.dice.roll(5);
        let mut messages = vec![json!({"role": "user", "content": self.content(first)})];
        let mut past: Vec<Vec<Value>> = Vec::new();
        for turn in 0..turns {
            let mut tasks = Vec::new();
            if depth < 3 && self.dice.roll(4) == 0 {
                for _ in 0..=self.dice.roll(2) {
                    // The same words again and again, of which the last who said them is meant.
                    tasks.push(match self.dice.roll(3) {
                        0 => "Run the tests".to_string(),
                        _ => format!("Look into {} of {}", self.dice.roll(1_000_000), self.requests.len()),
                    });
                }
            }
            let mut said = vec![json!({"type": "text", "text": format!("Answer {turn}")})];
            for task in &tasks {
                said.push(json!({"type": "tool_use", "id": "t", "name": "Task", "input": {"prompt": task, "description": "x"}}));
            }
            if self.dice.roll(5) == 0 {
                said.push(json!({"type": "tool_use", "id": "b", "name": "Bash", "input": {"command": "ls"}}));
            }
            let response = json!({"role": "assistant", "content": said});
            self.request(domain, system.as_ref(), &messages, response.clone());
            past.push(messages.clone());
            for task in tasks {
                // In time, or too late to be taken for its subtask.
                self.now += if self.dice.roll(5) == 0 { 31 } else { 1 + self.dice.roll(10) };
                self.conversation(domain, &task, depth + 1);
            }
            messages.push(response);
            let question = format!("Question {turn} \n {}", self.dice.roll(1000));
            messages.push(json!({"role": "user", "content": self.content(&question)}));
            if self.dice.roll(8) == 0 {
                system = Some(json!(format!("Now be {}", self.dice.roll(9))));
            }
            // Somebody goes back to an earlier point, or sends the same again.
            if self.dice.roll(6) == 0 {
                let again = usize::try_from(self.dice.roll(past.len() as u64)).unwrap();
                let earlier = past[again].clone();
                if self.dice.roll(2) == 0 && earlier.len() > 2 {
                    let mut other = earlier;
                    let last = other.len() - 1;
                    other[last] =
                        json!({"role": "user", "content": format!("Rather {}", self.dice.roll(1000))});
                    self.request(domain, system.as_ref(), &other, json!({"content": []}));
                } else {
                    self.request(domain, system.as_ref(), &earlier, json!({"content": []}));
                }
            }
        }
    }
}

pub(super) fn generate(seed: u64, conversations: usize) -> Vec<Request> {
    let mut generator = Generator { dice: Dice(seed), now: 0, requests: Vec::new() };
    for number in 0..conversations {
        let domain = generator.dice.pick(&DOMAINS);
        // Some begin with the very same words.
        let first = format!("Hello {}", number % 40);
        generator.conversation(domain, &first, 0);
        generator.now += generator.dice.roll(120);
        if generator.dice.roll(10) == 0 {
            let (at, count) = (generator.now, generator.requests.len());
            let id = format!("ffffffff-0000-4000-8000-{count:012x}");
            let body = generator.dice.pick(&["null", "{}", "{\"messages\": []}", "{\"messages\": \"x\"}"]);
            let body = serde_json::from_str(body).unwrap();
            generator.requests.push(Request { id, domain, at, account: None, body, response: Value::Null });
        }
    }
    generator.requests
}
