"""advmerge: do adversarial examples crafted on public ancestors still fool a merged model?"""

__version__ = "0.1.0"
