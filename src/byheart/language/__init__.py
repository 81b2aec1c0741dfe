"""Language models: what did they memorize, document by document and span by span?"""
