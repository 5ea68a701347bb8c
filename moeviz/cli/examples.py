"""The examples that end each `--help`: tests run them."""

EXAMPLES = {
    "moeviz": """examples:
  moeviz app                                          open the app in a browser
  moeviz trace "Il fait froid." -o trace.csv          record what the routers decide
  moeviz what-if "Il fait froid." --mute 3:1          the effect of leaving an expert out
  moeviz ablate "Il fait froid."                      which experts matter most
  moeviz corpus --embedded                            which experts each kind of text uses
  moeviz metrics trace.csv --topic load               how the work is divided
  moeviz params allenai/OLMoE-1B-7B-0924              total and active parameters
  moeviz serve cache trace.npz                        what the routing costs to serve: hits of a cache
  moeviz plan trace.npz --engine sglang --devices 4 --copies 4 -o plan.json
  moeviz families                                     which families of models moeviz reads, and how
  moeviz convert trace.csv trace.parquet
  moeviz doctor trace.csv                             what is not plausible in a trace
  moeviz diff vllm.json transformers.npz              where two engines send the same tokens
  moeviz compare mixtral.npz olmoe.npz                two models on one text, each by its own chance
  moeviz training run/routing                         alarms of a run, while it trains or afterwards""",
    "app": """examples:
  moeviz app
  moeviz app trace.npz                                open it with this trace on screen, however large the file is
  moeviz app vllm.json transformers.npz               with two to compare: page Engine difference
  moeviz app imatrix.gguf --top-k 8                   with counts, and what the file does not say
  moeviz app many                                     with the corpus in this folder: page Corpus
  moeviz app model-Q4_K_M.gguf                        with this model to choose, run by llama.cpp
  moeviz app --port 8080 --no-browser
  moeviz app --team --behind lab.example              for a group: a token, and the models of MOEVIZ_MODELS alone
  moeviz app --team --behind lab.example --login-header X-Remote-User
  moeviz app --public --server.address 0.0.0.0        for strangers; unknown options go to Streamlit""",
    "trace": """examples:
  moeviz trace "Il fait froid."
  moeviz trace "Il fait froid." --max-new-tokens 20 --temperature 0.8 --seed 1 -o trace.npz
  moeviz trace "Il fait froid." --max-new-tokens 20 --decoding checkpoint
  moeviz trace - --model allenai/OLMoE-1B-7B-0924 -o trace.parquet < prompt.txt
  moeviz trace "Il fait froid." --model model-Q4_K_M.gguf --max-new-tokens 20
  moeviz trace "Il fait froid." --json | jq .busiest""",
    "what-if": """examples:
  moeviz what-if "12 + 7 = 19" --mute 3:1,4           experts 1 and 4 of layer 3 cannot be chosen
  moeviz what-if "12 + 7 = 19" --experts-per-token 1
  moeviz what-if "12 + 7 = 19" --exchange 2 0 5       experts 0 and 5 of layer 2 get each other's tokens
  moeviz what-if "12 + 7 = 19" --replay other.npz -o changed.npz""",
    "ablate": """examples:
  moeviz ablate "12 + 7 = 19"
  moeviz ablate - --layers 2 3 --json < prompt.txt | jq .[0]""",
    "precision": """examples:
  moeviz precision "Il fait froid."                   tokens sent to other experts, by precision and layer
  moeviz precision "Il fait froid." --model model-F16.gguf --beside model-Q4_K_M.gguf
  moeviz precision - --json < prompt.txt | jq .[0]""",
    "corpus": """examples:
  moeviz corpus --embedded
  moeviz corpus french.txt german.txt python.txt -o mine.npz
  moeviz corpus texts.jsonl --model allenai/OLMoE-1B-7B-0924 -o olmoe.npz
  moeviz metrics olmoe.npz --topic specialization
  moeviz corpus texts.jsonl -o folder                 a corpus of any size, as a dataset
  moeviz corpus texts.jsonl -o folder --resume        go on after a kill
  moeviz corpus --embedded --json | jq .label_information""",
    "params": """examples:
  moeviz params embedded
  moeviz params mistralai/Mixtral-8x7B-v0.1           well-known models need no network
  moeviz params openai/gpt-oss-120b --context 131072  memory, with keys and values for so many tokens
  moeviz params embedded --trace trace.npz            how many parameters the trace's tokens touched
  moeviz params --known                               all well-known models, next to the published figures
  moeviz params ./my-checkpoint --json | jq .total""",
    "families": """examples:
  moeviz families
  moeviz families --json | jq '.[] | select(.kernels != "yes")'
  moeviz families --check                             survey the installed transformers (a minute)""",
    "history": """examples:
  moeviz history                                      the systems that can be trained here
  moeviz history run local-experts --seed 3 -o 1991.npz
  moeviz history check                                our results next to the papers'; exit code 1 if any fails
  moeviz history check switch --quick                 one system, with less training
  moeviz history check switch --quick --controls      and with each mechanism broken: every claim must miss then
  moeviz history check --seed 11                      the same claims of other runs""",
    "metrics": """examples:
  moeviz metrics trace.npz
  moeviz metrics trace.csv --topic layers --layers 0 5
  moeviz metrics trace.json --topic confidence --json | jq .
  moeviz metrics folder --topic co-activation         of a dataset, where it lies""",
    "serve": """examples:
  moeviz serve cache trace.npz --capacities 2 4       hit rates of caches of two and four experts a layer
  moeviz serve cache trace.npz --chunk 16             the same where a prompt is read in chunks
  moeviz serve coverage trace.npz --batch 1 8 32      experts that a batch of tokens needs
  moeviz serve prefetch trace.npz --json | jq .[0]
  moeviz serve placement trace.npz --devices 4 --copies 4
  moeviz serve memory trace.npz --context 8192 --batch 1 32 --bits 16 8
  moeviz serve memory Qwen/Qwen3-30B-A3B --context 32768""",
    "plan": """examples:
  moeviz plan trace.npz --engine sglang --devices 4 --copies 4 -o plan.json
  moeviz plan trace.npz --engine tensorrt-llm --devices 4 --copies 4 -o plan.yaml
  moeviz plan trace.npz --engine llama.cpp --layers-on-gpu 2 -o option.txt""",
    "convert": """examples:
  moeviz convert trace.npz trace.csv
  moeviz convert routes-by-hand.csv routes.parquet
  moeviz convert trace.npz folder                     as a dataset; and back: moeviz convert folder trace.npz
  moeviz convert trace.npz report.html                every chart in one file, for a colleague
  moeviz convert trace.npz charts.zip                 every chart as SVG and CSV
  moeviz convert response.json -o trace.npz --hidden-layers 27 --top-k 6
  moeviz convert imatrix.gguf -o counts.json --top-k 8""",
    "doctor": """examples:
  moeviz doctor trace.npz
  moeviz doctor response.json --beside trace.npz      is it a row short?
  moeviz doctor trace.csv --json | jq .[].says""",
    "diff": """examples:
  moeviz diff served.json trace.npz
  moeviz diff vllm.json transformers.npz --json | jq .shift""",
    "compare": """examples:
  moeviz compare mixtral.npz olmoe.npz
  moeviz compare embedded.npz natural.npz fine.npz --json | jq .says""",
    "training": """examples:
  moeviz training run/routing                         alarms, and the last logs
  moeviz training run/routing --ignore aux_off        exit code 3 if any other alarm is on
  moeviz training run/routing --json | jq .alarms.on
  moeviz training tokens_per_expert --top-k 2 --expert-parallel 1""",
}
