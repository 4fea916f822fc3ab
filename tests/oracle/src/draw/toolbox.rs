//! Tools, hosted and not, wherever they may stand.

use serde_json::{Value, json};

use super::Hand;

impl Hand<'_> {
    /// A function that the client runs.
    pub(super) fn function(&mut self) -> Value {
        let text = self.text();
        let example = "data:image/png;base64,iVBORw0KGgo=";
        json!({
            "type": "function", "name": "look", "description": text,
            "parameters": { "type": "object", "properties": { "image_url": { "type": "string", "default": example } } },
        })
    }

    /// Some tools.
    pub(super) fn tools(&mut self) -> Vec<Value> {
        let count = self.chance.within(1, 4);
        (0..count).map(|_| self.tool(true)).collect()
    }

    fn tool(&mut self, may_nest: bool) -> Value {
        match self.chance.within(0, 11) {
            0 | 1 => {
                let kind = self.chance.one(&[
                    "web_search",
                    "web_search_2025_08_26",
                    "web_search_preview",
                    "web_search_preview_2025_03_11",
                ]);
                json!({ "type": kind })
            }
            2 => json!({ "type": "file_search", "vector_store_ids": ["vs_1"] }),
            3 => {
                let id = self.id(&["cntr_1g", "cntr_4g", "cntr_16g", "cntr_64g"]);
                json!({ "type": "code_interpreter", "container": id })
            }
            4 => json!({ "type": "code_interpreter", "container": self.made("auto") }),
            5 => json!({ "type": "shell", "environment": self.made("container_auto") }),
            6 => {
                let id = self.id(&["cntr_1g", "cntr_64g"]);
                json!({ "type": "shell", "environment": { "type": "container_reference", "container_id": id } })
            }
            7 => self.easel(),
            8 => json!({ "type": "mcp", "server_label": "deep", "server_url": "https://example.org/mcp" }),
            9 if may_nest => {
                let tools = [self.tool(false), self.tool(false)];
                json!({ "type": "namespace", "name": "inner", "tools": tools })
            }
            10 => json!({ "type": "custom", "name": "exec" }),
            _ => self.function(),
        }
    }

    fn made(&mut self, kind: &str) -> Value {
        let mut container = json!({ "type": kind });
        if self.chance.percent(60) {
            container["memory_limit"] = json!(self.chance.one(&["1g", "4g", "16g", "64g"]));
        }
        container
    }

    fn easel(&mut self) -> Value {
        let mut tool = json!({ "type": "image_generation" });
        if self.chance.percent(50) {
            tool["model"] = json!(self.chance.one(&["gpt-image-1.5", "gpt-image-1-mini", "gpt-image-2"]));
        }
        if self.chance.percent(30) {
            tool["quality"] = json!(self.chance.one(&["low", "medium", "high", "auto"]));
        }
        if self.chance.percent(30) {
            tool["size"] = json!(self.chance.one(&["1024x1024", "1536x1024", "3840x2160", "auto"]));
        }
        if self.chance.percent(20) {
            tool["output_format"] = json!("gif");
            if self.chance.percent(60) {
                tool["frame_count"] = json!(self.chance.within(2, 16));
            }
        }
        if self.chance.percent(20) {
            tool["partial_images"] = json!(self.chance.within(0, 3));
        }
        tool
    }
}
