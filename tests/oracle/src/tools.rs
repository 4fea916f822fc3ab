//! Hosted tools that a request offers, wherever it offers them.

use serde_json::Value;

use crate::ask::memory_of;
use crate::image;
use crate::prices::{
    CATALOGUE_DAY, FILE_SEARCH_PICO, Memory, Model, Place, Rates, Tier, WEB_SEARCH_PICO,
    WEB_SEARCH_PREVIEW_PICO, find, models,
};
use crate::world::{Endpoint, World};

/// A tool that makes pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTool {
    /// Model that it names.
    pub model: Option<String>,
    /// Tokens of one picture.
    pub output: u64,
}

impl ImageTool {
    /// Rates of its model; of the dearest that is not shut down where it names none.
    pub fn rates(&self, place: Place<'_>) -> Rates {
        let rates = |model: &Model| model.rates(Tier::Standard, false, place);
        if let Some(model) = self.model.as_deref().and_then(find) {
            return rates(model);
        }
        // The catalogue says nothing of the days before it was made.
        let day = place.date.max(CATALOGUE_DAY);
        let is_open = |model: &&Model| {
            model.mode == "image_generation" && model.shutdown.as_deref().is_none_or(|end| end > day)
        };
        let of_all = models().filter(is_open).map(rates);
        of_all.max_by_key(|rates| rates.image_out).expect("a model that makes pictures")
    }
}

/// What is offered.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// Fee of a web search, if one is offered.
    pub search_pico: Option<u128>,
    /// Input tokens that one web search is billed for beside its fee.
    pub search_block: u64,
    /// Fee of the one search of a chat completion.
    pub chat_search_pico: Option<u128>,
    /// Whether file search is offered.
    pub file_search: bool,
    /// Containers: id, if it was named, and memory.
    pub containers: Vec<(Option<String>, Memory)>,
    /// The largest container of kept context, in which a tool may run that names none.
    pub kept_container: Option<(String, Memory)>,
    /// Tools that make pictures.
    pub images: Vec<ImageTool>,
    /// Functions that the client runs, by name.
    pub functions: Vec<String>,
    /// MCP servers.
    pub mcp_servers: u64,
    /// Whether another hosted tool, without a fee, is offered.
    pub is_other: bool,
    /// Whether upstream can offer all of them.
    pub is_possible: bool,
}

impl Tools {
    /// Reads all tools of a body.
    pub fn read(world: &World, endpoint: Endpoint, body: &Value, model: &Model) -> Self {
        let before = body["previous_response_id"].as_str().and_then(|id| world.kept.get(id));
        let kept_container = before.and_then(|kept| kept.container.clone());
        let mut tools = Self { is_possible: true, kept_container, ..Self::default() };
        match endpoint {
            Endpoint::Chat => {
                each(&body["tools"], &mut |tool| tools.function(&tool["function"]));
                if body["web_search_options"].is_object() || model.always_searches() {
                    let is_preview = model.name.starts_with("gpt-4o");
                    let fee = if is_preview { WEB_SEARCH_PREVIEW_PICO } else { WEB_SEARCH_PICO };
                    tools.chat_search_pico = Some(fee);
                }
            }
            Endpoint::Responses => {
                each(&body["tools"], &mut |tool| tools.add(world, tool, model));
                for item in body["input"].as_array().into_iter().flatten() {
                    if item["type"] == "additional_tools" {
                        each(&item["tools"], &mut |tool| tools.add(world, tool, model));
                    }
                }
            }
            // None of the others runs tools.
            Endpoint::Completions | Endpoint::Compact | Endpoint::Embeddings => {}
        }
        tools
    }

    /// Adds one tool.
    pub fn add(&mut self, world: &World, tool: &Value, model: &Model) {
        let kind = tool["type"].as_str().unwrap_or_default();
        match kind {
            _ if kind.starts_with("web_search") => {
                let is_dear = kind.starts_with("web_search_preview") && !model.reasons();
                let fee = if is_dear { WEB_SEARCH_PREVIEW_PICO } else { WEB_SEARCH_PICO };
                let block = if kind.starts_with("web_search_preview") { 0 } else { model.search_block() };
                if self.search_pico.is_none_or(|dearest| dearest < fee) {
                    (self.search_pico, self.search_block) = (Some(fee), block);
                }
            }
            "file_search" => self.file_search = true,
            "code_interpreter" => match &tool["container"] {
                Value::String(id) => self.container(world, Some(id)),
                container => self.made(memory_of(container)),
            },
            "shell" => {
                let environment = &tool["environment"];
                match environment["type"].as_str() {
                    Some("local") => {}
                    Some("container_reference") => {
                        self.container(world, environment["container_id"].as_str());
                    }
                    _ => self.made(memory_of(environment)),
                }
            }
            "image_generation" => {
                let text = |name: &str| tool[name].as_str().unwrap_or("auto");
                let partial = tool["partial_images"].as_u64().unwrap_or(0).min(3);
                // A GIF is made frame by frame: 2 to 16, 9 where none are asked for.
                let is_gif = text("output_format") == "gif";
                let frames = if is_gif { tool["frame_count"].as_u64().unwrap_or(9) } else { 1 };
                self.is_possible &= !is_gif || (2..=16).contains(&frames);
                self.images.push(ImageTool {
                    model: tool["model"].as_str().map(str::to_owned),
                    output: frames.min(16)
                        * (image::generated(text("size"), text("quality")) + 100 * partial),
                });
                self.is_possible &= tool["model"].as_str().is_none_or(|model| find(model).is_some());
            }
            "function" => self.function(tool),
            "mcp" => self.mcp_servers += 1,
            "tool_search" => self.is_other = true,
            "namespace" => each(&tool["tools"], &mut |tool| self.add(world, tool, model)),
            // What the client runs costs tokens alone.
            _ => {}
        }
    }

    fn function(&mut self, function: &Value) {
        self.functions.extend(function["name"].as_str().map(str::to_owned));
    }

    fn made(&mut self, memory: Option<Memory>) {
        self.is_possible &= memory.is_some();
        self.containers.extend(memory.map(|memory| (None, memory)));
    }

    fn container(&mut self, world: &World, id: Option<&str>) {
        let memory = id.and_then(|id| world.containers.get(id));
        self.is_possible &= memory.is_some();
        self.containers.extend(memory.map(|memory| (id.map(str::to_owned), *memory)));
    }

    /// Whether calls of them are answered by upstream itself, in turns that read the context again.
    pub fn loops(&self) -> bool {
        self.search_pico.is_some()
            || self.chat_search_pico.is_some()
            || self.file_search
            || !self.containers.is_empty()
            || !self.images.is_empty()
            || self.mcp_servers > 0
            || self.is_other
    }

    /// Memory of the dearest container that each tool may run in.
    pub fn memories(&self) -> impl Iterator<Item = Memory> {
        let kept = self.kept_container.as_ref().map(|(_, memory)| *memory);
        self.containers.iter().map(move |(id, memory)| match id {
            Some(_) => *memory,
            None => kept.map_or(*memory, |kept| kept.max(*memory)),
        })
    }

    /// Largest fee of one call, in picodollars: pictures aside.
    pub fn fee_max_pico(&self) -> u128 {
        let search = self.search_pico.unwrap_or(0);
        search.max(if self.file_search { FILE_SEARCH_PICO } else { 0 })
    }
}

fn each(tools: &Value, work: &mut dyn FnMut(&Value)) {
    tools.as_array().into_iter().flatten().for_each(work);
}
