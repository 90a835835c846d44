"""The steps of a generation, one a file, each `async def <verb>(run) -> Outcome | None`.

read_submission   Decodes the submission and the user's message
load_history      Reads the conversation so far, and the system prompt
enhance           Has an unclear message reworded by a model, if that is allowed
choose_model      Decides which model answers
fetch_images      Fetches the images of the message
search_web        Searches the web for a model that cannot
answer            Has the model answer, calls tools for it, and has it answer with the results
settle            Ends the generation with its outcome, suspends it, or returns it to the queue

Beside them, what the steps use:

build_request     Builds the request to a model: the conversation as far as it fits
call_tools        Runs the tools that the model has called, and keeps their results
check_form        Checks the answer against the form that was asked for
round_log         Keeps finished rounds in the log of the answer, and restores them
own_parts         The parts of the present round's answer, in their order
charge            Computes the charge for the answer, or for the part of it that was shown
truncate_history  Cuts a conversation to a context window, whole turns at a time
rewording         The prompt of a rewording, and the checks of its result
"""
