"""What users of generated clients write: the same conversation in each language.

chat    The program in Python; chat.ts is the one in TypeScript
"""
