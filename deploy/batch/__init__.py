"""`pollux batch`: files of prompts in, files of answers out, across crashes of either side.

commands       The commands about batches that exist: list, show, results, cancel, delete and others
run            `pollux batch run`: a file of prompts, from its check to its last answer
estimate       `--estimate`: what a file would cost and when it would end
prompts        A file of prompts as the JSONL that is sent, and its fingerprint
csv_prompts    Prompts from the rows of a CSV
batch_options  The options of a batch, and which of them are part of its name
upload         Finds the batch that a file names, and uploads the file where there is none
receive        Receives answers until the batch has ended
answers        The file that answers are written to, and how far it is
outcome        How a batch ended: sentences, exit code, and the commands that go on
display        The bar on a terminal, and lines for a person
tables         Prints batches
batch_api      Calls the API, and repeats calls that failed
wire           What is read of the API's replies
"""
